# SPDX-License-Identifier: Apache-2.0
"""Data: seqio tasks in, small batches of arrays out.

    name      sources (seqio tasks; tfds_tasks, builders; the miniature's tasks)
    rows      formats, text_files -> rows, chat
    cleaned   cleaning (hygiene, pii), account
    tokens    vocabularies, prompting, examples; in memory, or in a store
    batches   order, packing -> streams, batches, ahead

`loading` goes from a name to tokens; `report` tells what became of everything.
TensorFlow comes in through seqio, which takes seconds to import: only
`vocabularies`, `sources`, `tasks`, `tfds_tasks`, `builders` and a call of
`loading.load` need it.
"""
