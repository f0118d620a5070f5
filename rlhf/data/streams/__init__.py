# SPDX-License-Identifier: Apache-2.0
"""Batches by step: which examples form batch s follows from (seed, s) alone.

What a stream deals in (rows of text, packed rows, prompts) is an endless
sequence: epoch after epoch, each in an order of its own, drawn from (seed,
epoch). Batches take the next of that sequence, across the ends of epochs, so
that every batch is full and every epoch holds everything once. `batch(step)`
may be asked in any order, by a resumed run too: it goes straight there, and
answers the same.

`position(step)` says where a stream stands before a step, for checkpoints:
{'epoch', 'taken': items dealt of that epoch, 'of': items an epoch, 'data': the
fingerprint of what it deals from}.

`once()` is for evaluation: everything once, the last batch padded.

On several hosts each builds batches of the whole size, but reads and fills only
its own rows (`local`, of `hosts.local_rows`); the others hold nothing, and are
never looked at.
"""

from rlhf.data.streams.demonstrations import DemonstrationStream
from rlhf.data.streams.prompts import PromptStream, prompt_lengths
from rlhf.data.streams.rankings import RankingStream
from rlhf.data.streams.text import TextStream

__all__ = [
    'DemonstrationStream',
    'PromptStream',
    'RankingStream',
    'TextStream',
    'prompt_lengths',
]
