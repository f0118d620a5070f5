# SPDX-License-Identifier: Apache-2.0
"""RLHF as InstructGPT describes it, in JAX."""
