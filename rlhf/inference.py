# SPDX-License-Identifier: Apache-2.0
"""Text in, text or numbers out: sampling and scoring outside of training."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf import experience, sharding
from rlhf import model as lm
from rlhf.data import packing
from rlhf.data.prompting import PromptFormat
from rlhf.dims import Params
from rlhf.losses import sequence_log_prob
from rlhf.sampling import SamplingConfig, generate


@dataclasses.dataclass(frozen=True)
class Completion:
  """One response.

  Attributes:
    prompt: as the user wrote it.
    response: decoded, without the stop token.
    prompt_ids: what the model was given, BOS first.
    response_ids: what it drew, the stop token included.
    finished: False if it was cut at the limit.
  """

  prompt: str
  response: str
  prompt_ids: tuple[int, ...]
  response_ids: tuple[int, ...]
  finished: bool


@dataclasses.dataclass(frozen=True)
class Codec:
  """Between raw text and model tokens.

  Attributes:
    vocabulary: seqio's.
    prompt_format: what stands around a prompt.
    prompt_tokens: P; longer prompts are refused.
    fingerprint: tells the vocabulary from others.
  """

  vocabulary: Any
  prompt_format: PromptFormat
  prompt_tokens: int
  fingerprint: str = ''

  def encode_prompt(self, prompt: str) -> list[int]:
    """BOS and the formatted prompt.

    Raises:
      ValueError: for a prompt that is too long.
    """
    text = self.prompt_format.prompt(prompt)
    ids = [self.vocabulary.bos_id, *self.vocabulary.encode(text)]
    if len(ids) > self.prompt_tokens:
      raise ValueError(
          f'a prompt of {len(ids)} tokens, over the limit of'
          f' {self.prompt_tokens}: {prompt[:60]!r}'
      )
    return ids

  def decode_response(self, ids: Sequence[int]) -> str:
    return self.vocabulary.decode(list(ids)).strip()


@functools.cache
def _on(mesh: jax.sharding.Mesh | None, function: Callable, **static) -> Any:
  """`function` with its static arguments, jitted for a mesh."""
  bound = functools.partial(function, **static)
  return jax.jit(sharding.under(mesh, bound) if mesh else bound)


def _scores(params, tokens_BT, segment_ids_BT, mask_BR, *, cfg):
  return experience.response_scores(
      params, tokens_BT, segment_ids_BT, mask_BR, cfg=cfg
  )


def _log_probs(params, tokens_BT, segment_ids_BT, mask_BR, *, cfg, temperature):
  log_probs_BR = experience.response_log_probs(
      params,
      tokens_BT,
      segment_ids_BT,
      cfg=cfg,
      response_tokens=mask_BR.shape[1],
      temperature=temperature,
  )
  return sequence_log_prob(log_probs_BR, mask_BR)


def _put(arrays: tuple, mesh: jax.sharding.Mesh | None) -> tuple:
  if mesh is None:
    return jax.tree.map(jnp.asarray, arrays)
  return sharding.put_batch(arrays, mesh)


def complete(
    params: Params,
    cfg: lm.ModelConfig,
    prompts: Sequence[str],
    key: jax.Array,
    *,
    codec: Codec,
    sampling: SamplingConfig,
    batch: int = 128,
) -> list[Completion]:
  """Draws one response to each prompt.

  Args:
    params, cfg: the policy.
    prompts: raw; repeat one to draw several responses to it.
    key: the draws hang on it and on the position of a prompt in the list.
    codec: text to tokens and back.
    sampling: how to draw.
    batch: rows at a time; the last batch is filled up, so that one program
      serves all.

  Returns:
    Completions in the order of `prompts`.
  """
  encoded = [codec.encode_prompt(prompt) for prompt in prompts]
  params, mesh = rollout_weights(params, cfg)
  program = _on(mesh, generate, cfg=cfg, sampling=sampling)
  completions = []
  for start, rows in _batches(encoded, batch):
    padded = packing.left_pad(rows, codec.prompt_tokens, cfg.pad_id)
    samples = sharding.fetch(
        program(params, *_put(padded, mesh), jax.random.fold_in(key, start))
    )
    for row in range(min(batch, len(prompts) - start)):
      ids = samples.tokens_BR[row][samples.mask_BR[row]].tolist()
      finished = bool(samples.finished[row])
      completions.append(
          Completion(
              prompt=prompts[start + row],
              # Without the stop token, which need not be the EOS.
              response=codec.decode_response(ids[:-1] if finished else ids),
              prompt_ids=tuple(encoded[start + row]),
              response_ids=tuple(ids),
              finished=finished,
          )
      )
  return completions


def reward_scores(
    params: Params,
    cfg: lm.ModelConfig,
    completions: Sequence[Completion],
    *,
    prompt_tokens: int,
    response_tokens: int,
    batch: int = 128,
) -> np.ndarray:
  """A reward model's score of each completion, f32 [n]."""
  program = _on(sharding.mesh_of(params), _scores, cfg=cfg)
  return _over(
      program, params, cfg, completions, prompt_tokens, response_tokens, batch
  )


def log_probs(
    params: Params,
    cfg: lm.ModelConfig,
    completions: Sequence[Completion],
    *,
    prompt_tokens: int,
    response_tokens: int,
    temperature: float = 1.0,
    batch: int = 128,
) -> np.ndarray:
  """A policy's log-probability of each whole response, nats, f32 [n]."""
  mesh = sharding.mesh_of(params)
  program = _on(mesh, _log_probs, cfg=cfg, temperature=temperature)
  return _over(
      program, params, cfg, completions, prompt_tokens, response_tokens, batch
  )


def rollout_weights(
    params: Params, cfg: lm.ModelConfig
) -> tuple[Params, jax.sharding.Mesh | None]:
  """Weights laid out for decoding, and their mesh (None off a mesh)."""
  mesh = sharding.mesh_of(params)
  if mesh is None or mesh.size == 1:
    return params, mesh
  mesh = sharding.rollout_mesh(mesh)
  return lay_out(params, cfg, mesh, ('tensor',))(params), mesh


def lay_out(
    params: Params,
    cfg: lm.ModelConfig,
    mesh: jax.sharding.Mesh,
    spread: Sequence[str],
) -> jax.stages.Wrapped:
  """Jitted `training weights -> weights that are only read`, in `cfg.dtype`.

  For decoding they are spread over `tensor` alone: in training a weight's parts
  lie on `fsdp` too, and a decoder would gather the network for every token.

  Args:
    params: of the shapes that the program will be given; may be shapes alone.
    cfg: the model's.
    mesh: where they are to lie.
    spread: the mesh axes that they are spread over; copied over the others.
  """
  where = sharding.shardings(params, mesh, spread)
  cast = functools.partial(lm.cast_weights, cfg=cfg)
  return jax.jit(cast, out_shardings=where)


def _over(
    program, params, cfg, completions, prompt_tokens, response_tokens, batch
):
  """Applies `program(params, tokens_BT, segment_ids_BT, mask_BR)` in parts."""
  mesh = sharding.mesh_of(params)
  values = []
  for _, rows in _batches(completions, batch):
    prompts_BP, prompt_mask_BP = packing.left_pad(
        [c.prompt_ids for c in rows], prompt_tokens, cfg.pad_id
    )
    responses_BR, real_BR = packing.right_pad(
        [c.response_ids for c in rows], response_tokens, cfg.pad_id
    )
    tokens_BT = np.concatenate([prompts_BP, responses_BR], axis=1)
    segment_ids_BT = np.concatenate([prompt_mask_BP, real_BR], axis=1)
    arrays = (tokens_BT, segment_ids_BT.astype(np.int32), real_BR.astype(bool))
    values.append(program(params, *_put(arrays, mesh)))
  return np.concatenate(sharding.fetch(values))[: len(completions)]


def _batches(rows: Sequence, batch: int) -> Iterator[tuple[int, list]]:
  """Slices of exactly `batch` rows; the last is filled with its first row."""
  for start in range(0, len(rows), batch):
    part = list(rows[start : start + batch])
    yield start, part + part[:1] * (batch - len(part))



def sample_rows(
    completions: Sequence[Completion], scores: Sequence[float] | np.ndarray
) -> list[dict]:
  """Rows for `Workdir.samples`: prompt, response, score."""
  return [
      {'prompt': c.prompt, 'response': c.response, 'score': float(score)}
      for c, score in zip(completions, scores, strict=False)
  ]


def greedy(
    params: Params,
    tokens_BP: np.ndarray,
    mask_BP: np.ndarray,
    *,
    cfg: lm.ModelConfig,
    sampling: SamplingConfig,
):
  """Most likely continuations of left-padded prompts: `Samples`."""
  key = jax.random.key(0)  # Nothing is drawn at temperature 0.
  params, mesh = rollout_weights(params, cfg)
  program = _on(mesh, generate, cfg=cfg, sampling=sampling)
  return program(params, *_put((tokens_BP, mask_BP), mesh), key)
