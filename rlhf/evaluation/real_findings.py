# SPDX-License-Identifier: Apache-2.0
"""What the exam of a run on real text says of each stage: by its numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf.evaluation.findings import (
    NAMES,
    Finding,
    above,
    below,
    number,
    percent,
    points,
    rounded,
)

_POLICIES = ('ppo', 'ppo_ptx')


def findings(results: Mapping) -> list[Finding]:
  """What the numbers say of each stage that has finished."""
  found = results['contrasts']
  return [
      *_losses(results, found),
      *_reward_model(results),
      *_policies(results, found),
  ]


def _losses(results, found) -> list[Finding]:
  text = results['text']
  over = found['text/base_over_frequencies']
  claims = [
      Finding(
          'The base model predicts text better than frequencies of tokens do.',
          {'': below(over, 0, '0')},
          f'Held-out text costs it {number(text["base"], 3)} nats a token;'
          f' frequencies {number(text["frequencies"], 3)}; difference'
          f' {number(over, 3)}.',
      )
  ]
  name = 'demonstrations/sft_over_base'
  if name in found:
    said, taxed = results['demonstrations'], found['text/sft_over_base']
    claims.append(
        Finding(
            'SFT predicts held-out demonstrations better than the base model.',
            {'': below(found[name], 0, '0')},
            f'Nats a token of a response: base {number(said["base"], 3)}, SFT'
            f' {number(said["sft"], 3)}; difference {number(found[name], 3)}.'
            f' On plain text SFT differs from the base by'
            f' {number(taxed, 3)}.',
        )
    )
  return claims


def _reward_model(results) -> list[Finding]:
  if 'reward_model' not in results:
    return []
  row = results['reward_model'][0]
  training = results['curves']['rm'].get('rm/accuracy')
  late = (
      f' In training it came to {100 * training[1]:.1f} % over the last fifth'
      ' of steps.'
      if training
      else ''
  )
  rm, gain, read = row['rm'], row['gain'], row['as_read']
  claims = [
      Finding(
          'The reward model orders held-out pairs better than chance.',
          {'': above(rm, 0.5, '50 %')},
          f'Right: {percent(rm)} of {row["pairs"]} pairs on'
          f' {row["prompts"]} prompts.{late}',
      ),
      Finding(
          'The reward model orders them better than length alone.',
          {'': above(gain, 0, '0')},
          f'"The {row["better"]} one is better" is right for'
          f' {percent(row[row["better"]])}; the reward model less that, on the'
          f' same pairs: {points(gain)}. It reads responses cut to'
          f' {results["data"]["rankings"]["response_tokens"]} tokens; of those'
          f' lengths the better rule, {read["better"]}, is right for'
          f' {percent(read[read["better"]])}: a difference of'
          f' {points(read["gain"])}.',
      ),
  ]
  strength = results.get('strength')
  if strength:
    wanted = strength['threshold']
    claims.append(
        Finding(
            'The reward model is strong enough to be optimised against.',
            {'': above(strength, wanted, f'{100 * wanted:.0f} %')},
            'From chance to the rate at which two labelers of the paper agree,'
            f' {100 * strength["agreement"]:.1f} %, it comes'
            f' {percent(strength, 0)} of the way; the gate before PPO asks for'
            f' {100 * wanted:.0f} %.',
        )
    )
  return claims


def _policies(results, found) -> list[Finding]:
  models = [m for m in _POLICIES if m in results.get('answers', {})]
  answers, text = results.get('answers', {}), results['text']
  claims = []
  scored = [m for m in models if f'rm_score/{m}' in found]
  if scored:
    claims.append(
        Finding(
            'The reward model prefers what PPO learnt to say.',
            {
                NAMES[m]: above(found[f'rm_score/{m}'], 0, '0') for m in scored
            },
            f'Score on {answers["prompts"]} held-out prompts: SFT'
            f' {number(answers["sft"]["rm_score"])}; against that, prompt by'
            ' prompt,'
            f' {_each(scored, lambda m: number(found[f"rm_score/{m}"]))}.'
            ' KL from SFT, nats an answer:'
            f' {_each(scored, lambda m: number(answers[m]["kl_from_sft"]))}.'
            ' Tokens more than SFT:'
            f' {_each(scored, lambda m: number(found[f"length/{m}"], 1))}.'
            f'{_rollouts(results, scored)}',
        )
    )
  if 'ppo' in models:
    claims.append(
        Finding(
            'PPO grows worse at plain text.',
            {'': above(found['text/ppo_over_sft'], 0, '0')},
            f'Loss on held-out text: SFT {number(text["sft"], 3)}, PPO'
            f' {number(text["ppo"], 3)}; difference'
            f' {number(found["text/ppo_over_sft"], 3)}.',
        )
    )
  if len(models) == len(_POLICIES):
    claims.append(
        Finding(
            'PPO-ptx is better at plain text than PPO.',
            {'': above(found['text/ppo_over_ppo_ptx'], 0, '0')},
            'Loss of PPO less that of PPO-ptx:'
            f' {number(found["text/ppo_over_ppo_ptx"], 3)}. PPO-ptx against'
            f' SFT: {number(found["text/ppo_ptx_over_sft"], 3)}; it goes on'
            ' learning from the text that pretraining read.',
        )
    )
  return claims


def _each(models: Sequence[str], show: Callable[[str], Any]) -> str:
  return ', '.join(f'{NAMES[m]} {show(m)}' for m in models)


def _rollouts(results, models) -> str:
  """The score in training, from its first to its last iterations."""
  parts = []
  for model in models:
    ends = results['curves'][model].get('rollout/score')
    if ends:
      first, last = (rounded(end, 2) for end in ends)
      parts.append(f'{NAMES[model]} {first} to {last}')
  if not parts:
    return ''
  return (
      ' In training the score went, first to last fifth of iterations:'
      f' {", ".join(parts)}.'
  )
