# SPDX-License-Identifier: Apache-2.0
"""The stages of the paper, by the name that a config gives."""

from rlhf.stages import comparisons, ppo, pretrain, reward, sft

STAGES = {
    'pretrain': pretrain.run,
    'sft': sft.run,
    'comparisons': comparisons.run,
    'reward': reward.run,
    'ppo': ppo.run,
}
