# SPDX-License-Identifier: Apache-2.0
"""The embedded miniature world: prompts, writer, rubric, labelers, text.

A word-level world small enough for a GPT of 100k parameters, in which every
quality that the paper's labelers judge can be checked by a program. Pure
Python and numpy. Every draw comes from a generator passed in by the caller.
"""

import pathlib

# The base model that ships: made by configs/pretrain.py, see its docstring.
BASE_CHECKPOINT = pathlib.Path(__file__).parent / 'base.safetensors'
