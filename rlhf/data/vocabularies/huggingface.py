# SPDX-License-Identifier: Apache-2.0
"""Any tokenizer.json: Llama 3, Qwen, Mistral, Gemma, GPT-NeoX, T5, BERT, ..."""

import copy
import json
import os
import secrets
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
import tokenizers

from rlhf.data.rows import DataError
from rlhf.data.vocabularies import base

# Where EOS, BOS and pad are named: in the first of these that has the field.
_CONFIGS = ('tokenizer_config.json', 'special_tokens_map.json', 'config.json')

# How the special tokens of public models are written, for a tokenizer.json that
# stands alone. '</s>' and '<s>' come after '<eos>' and '<bos>', for Gemma has
# both pairs and means HTML by the former.
_WELL_KNOWN = {
    'eos': (
        '<eos>', '</s>', '<|end_of_text|>', '<|endoftext|>', '[EOS]', '[SEP]'
    ),
    'bos': (
        '<bos>', '<s>', '<|begin_of_text|>', '<|startoftext|>', '[BOS]', '[CLS]'
    ),
    'pad': (),  # base.PAD_NAMES, once EOS and BOS are known.
}  # fmt: skip


class HuggingFaceVocabulary(base.TextVocabulary):
  """A tokenizer.json, with its own ids and a pad that isn't EOS.

  Which tokens are EOS, BOS and pad is what tokenizer_config.json says (its
  fields eos_token, bos_token, pad_token), or else special_tokens_map.json (the
  same), or else config.json (eos_token_id and so on; of a list the first), each
  if it is beside the file. The first that has the field decides, and null says
  that there is none. Where none has it, a well-known name in the vocabulary
  does, special tokens first: for EOS <eos>, </s>, <|end_of_text|>,
  <|endoftext|>, [EOS], [SEP]; for BOS <bos>, <s>, <|begin_of_text|>,
  <|startoftext|>, [BOS], [CLS]. There must be an EOS. Without BOS, it is EOS.

  Pad, if there is none or it is also EOS, BOS or unknown, is the special token
  named <pad>, [PAD], <|pad|>, <|finetune_right_pad_id|> or <|endoftext|>, if
  that is none of them; or else one id after the last.

  Text cannot spell special tokens: "</s>" in it becomes ordinary tokens. This
  is stricter than the library is unless told. Added tokens that the file does
  not call special, such as a tool's tag, can be spelled, as they are meant to.
  Nothing is put around a text either: no template, BOS, padding or truncation.

  Does text come back unchanged? Exactly from byte-level BPE without normaliser
  and prefix space (GPT-2, Llama 3; Qwen but for its NFC). From BPE with
  byte_fallback but for U+2581, which becomes a space, and, where its
  pre-tokenizer is a Metaspace that prepends, one leading space, which is lost.
  Unigram and WordPiece (T5, BERT) normalise and lose what they don't know.
  A tokenizer that puts a space before a text (Llama 2) does so each time: the
  ids of a prompt and then of a response are not those of the two as one.
  """

  def __init__(
      self, spec: dict[str, Any], named: dict[str, Any], *, path: str
  ):
    """Takes tokenizer.json's value, and what the files beside it name.

    Args:
      spec: the parsed tokenizer.json.
      named: 'eos', 'bos' and 'pad' to a token or an id, or None for 'there is
        none'; without the key it is looked for by name.
      path: what errors call the vocabulary.
    """
    self._decoder = _load(spec, path)
    names = {i: n for n, i in self._decoder.get_vocab().items()}
    size = max(names, default=-1) + 1
    special = _special(spec)
    ids = {
        role: _find(role, named, self._decoder, special, path)
        for role in _WELL_KNOWN
    }
    eos_id = ids['eos']
    if eos_id is None:
      raise DataError(
          f'{path}: which token is EOS? None of {_WELL_KNOWN["eos"]} is in it: '
          'put a tokenizer_config.json with "eos_token" beside it'
      )
    unk_id = _unknown(spec, self._decoder)
    reserved = [n for n in base.PAD_NAMES if n in special]
    pad_id = base.choose_pad(
        ids['pad'],
        map(self._decoder.token_to_id, reserved),
        {eos_id, ids['bos'], unk_id},
        size,
    )
    content = {
        'spec': json.dumps(spec, sort_keys=True).encode(),
        'ids': repr((pad_id, ids['bos'], eos_id)).encode(),
    }
    super().__init__(
        size=max(size, pad_id + 1),
        pad_id=pad_id,
        bos_id=ids['bos'],
        eos_id=eos_id,
        unk_id=unk_id,
        digest=base.digest('huggingface', content),
    )
    controls = {names[i] for i in (pad_id, self.bos_id, eos_id) if i in names}
    self._encoder = _load(_unspellable(spec, special | controls), path)
    self._encoder.encode_special_tokens = True
    base.refuse_spelling(self, names, path)

  def _encode(self, s: str) -> list[int]:
    return self._encoder.encode(s, add_special_tokens=False).ids

  def _decode(self, ids: Iterable[int]) -> str:
    return self._decoder.decode(list(ids), skip_special_tokens=False)


def load(path: str) -> HuggingFaceVocabulary:
  """Reads a tokenizer.json, and the configs beside it.

  Raises:
    DataError: a file is malformed, an EOS is not to be found, or text can
      spell one of pad, BOS and EOS; names the file.
  """
  files = _files(path)
  spec = _parse(files.pop('tokenizer.json'), path)
  named: dict[str, Any] = {}
  for name in _CONFIGS:
    if name not in files:
      continue
    beside = os.path.join(os.path.dirname(path), name)
    config = _parse(files[name], beside)
    field = '{}_token_id' if name == 'config.json' else '{}_token'
    for role in _WELL_KNOWN:
      if field.format(role) in config and role not in named:
        named[role] = _token(config[field.format(role)], beside, role)
  return HuggingFaceVocabulary(spec, named, path=path)


def fingerprint(path: str) -> str:
  """Hex digest of a tokenizer.json and of the configs beside it."""
  return base.digest('huggingface', _files(path))


def _files(path: str) -> dict[str, bytes]:
  files = {'tokenizer.json': base.read(path)}
  for name in _CONFIGS:
    beside = os.path.join(os.path.dirname(path), name)
    if tf.io.gfile.exists(beside):
      files[name] = base.read(beside)
  return files


def _parse(data: bytes, path: str) -> dict[str, Any]:
  try:
    value = json.loads(data)
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise DataError(f'{path} is not JSON ({error}): copy it again') from error
  if not isinstance(value, dict):
    raise DataError(f'{path} is not a JSON object: copy it again')
  return value


def _token(value: Any, path: str, role: str) -> str | int | None:
  """A field's token or id: a string, an object with "content", ids, or null."""
  if isinstance(value, dict):
    value = value.get('content')
  if isinstance(value, list) and value:
    value = value[0]
  if value is None or isinstance(value, (str, int)):
    return value
  raise DataError(
      f'{path}: the {role} token is {value!r}: use its text or its id'
  )


def _load(spec: dict[str, Any], path: str) -> tokenizers.Tokenizer:
  message = f'{path} is not a tokenizer.json that can be used'
  if not isinstance(spec.get('model'), dict) or 'vocab' not in spec['model']:
    raise DataError(f'{message}: it has no "model" with a "vocab"')
  try:
    # No template, and neither padding nor truncation: a file may ask for each.
    bare = spec | dict.fromkeys(('post_processor', 'padding', 'truncation'))
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(bare))
  except Exception as error:  # The library raises nothing narrower.
    raise DataError(f'{message}: {error}') from error
  for token in spec.get('added_tokens') or ():
    found = tokenizer.token_to_id(token['content'])
    if found != token['id']:
      raise DataError(
          f'{path}: the added token {token["content"]!r} has id {token["id"]} '
          f'but would be read as {found}: number added tokens without gaps, '
          'after those of the model'
      )
  return tokenizer


def _special(spec: dict[str, Any]) -> set[str]:
  added = spec.get('added_tokens') or ()
  return {token['content'] for token in added if token.get('special')}


def _find(
    role: str,
    named: dict[str, Any],
    tokenizer: tokenizers.Tokenizer,
    special: set[str],
    path: str,
) -> int | None:
  """The id of 'eos', 'bos' or 'pad'; None if there is none."""
  token = named.get(role)
  if token is not None:
    known = isinstance(token, int) and tokenizer.id_to_token(token) is not None
    found = token if known else tokenizer.token_to_id(str(token))
    if found is None and role != 'pad':  # A pad that isn't there is a new id.
      raise DataError(
          f'{path}: the {role} token is {token!r} in a file beside it, but the '
          'vocabulary has no such token: get both from the same model'
      )
    return found
  if role in named and role != 'eos':
    return None
  present = [
      name
      for name in _WELL_KNOWN[role]
      if tokenizer.token_to_id(name) is not None
  ]
  present.sort(key=lambda name: name not in special)
  return tokenizer.token_to_id(present[0]) if present else None


def _unknown(
    spec: dict[str, Any], tokenizer: tokenizers.Tokenizer
) -> int | None:
  model = spec['model']
  if model.get('unk_id') is not None:  # Unigram names it by its id.
    return model['unk_id']
  token = model.get('unk_token')
  return None if token is None else tokenizer.token_to_id(token)


def _unspellable(spec: dict[str, Any], controls: set[str]) -> dict[str, Any]:
  """A copy of the tokenizer that reads none of `controls` in a text.

  Told to, the library doesn't look for *added* special tokens. But models other
  than plain BPE still find them in their own vocabulary, where T5's has '</s>'.
  There they get a name that no text can know, and are no longer added tokens.
  """
  spec = copy.deepcopy(spec)
  model = spec['model']
  whole_words = 'merges' not in model or model.get('ignore_merges')
  # Models other than Unigram ask for the unknown token by its name.
  hidden = controls - {model.get('unk_token')} if whole_words else set()
  secret = secrets.token_hex(16)

  def rename(piece: str) -> str:
    return piece + secret if piece in hidden else piece

  vocab = model['vocab']
  if isinstance(vocab, dict):
    inside = hidden & set(vocab)
    model['vocab'] = {rename(piece): i for piece, i in vocab.items()}
  else:
    inside = hidden & {piece for piece, _ in vocab}
    model['vocab'] = [[rename(piece), score] for piece, score in vocab]
  added = spec.get('added_tokens') or []
  spec['added_tokens'] = [
      token | {'special': token['content'] in controls}
      for token in added
      if token['content'] not in inside
  ]
  return spec
