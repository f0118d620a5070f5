# SPDX-License-Identifier: Apache-2.0
"""Data: seqio tasks in, small batches of arrays out.

TensorFlow comes in through seqio, which takes seconds to import; only
`vocabularies`, `sources`, `tasks` and a call of `examples.load` need it.
"""
