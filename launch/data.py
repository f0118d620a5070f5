# SPDX-License-Identifier: Apache-2.0
r"""What an experiment's data are, before a model sees them.

  python launch/data.py --config=configs/sft.py
  python launch/data.py --config=configs/real_data.py:hh_rlhf
  python launch/data.py --kind=rankings --source=comparisons.jsonl

prints, of every data set: rows read, kept, and dropped by each rule; users and
prompts of each split; lengths, languages, use cases, ties; how full batches
are; and a few examples as the model reads them, with what is learnt marked.
`--config.data...` flags work as in launch/train.py. docs/data.md says more.

A config brings its rules with it. One source alone is read by none of them but
that its rows are well-formed; --hygiene adds the paper's.
"""

import dataclasses
import json
import os
import pathlib
import sys

# Before JAX and TensorFlow are imported, as in launch/train.py. Nothing here is
# for an accelerator.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ['JAX_PLATFORMS'] = 'cpu'
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)
_KIND = flags.DEFINE_enum(
    'kind',
    None,
    ['demonstrations', 'rankings', 'prompts', 'text'],
    'What --source holds.',
)
_SOURCE = flags.DEFINE_string(
    'source', None, 'Files, a seqio task or tfds:NAME, instead of --config.'
)
_VOCABULARY = flags.DEFINE_string(
    'vocabulary', 'bytes', "With --source: 'bytes', a file, or a folder."
)
_PROMPT_TOKENS = flags.DEFINE_integer(
    'prompt_tokens', None, 'With --source: drop longer prompts.'
)
_RESPONSE_TOKENS = flags.DEFINE_integer(
    'response_tokens', None, 'With --source: cut longer responses.'
)
_STRICT = flags.DEFINE_bool(
    'strict', True, 'With --source: stop at the first bad row.'
)
_HYGIENE = flags.DEFINE_bool(
    'hygiene', False, "With --source: apply configs/common.py's rules."
)
_FIELDS = flags.DEFINE_list(
    'fields', [], 'With --source: names, as in prompt=question,response=answer.'
)
_TEMPLATE = flags.DEFINE_string(
    'chat_template', 'dialogue', 'With --source: of rows with messages.'
)
_JSON = flags.DEFINE_bool('json', False, 'Print one JSON object instead.')
_WRITE = flags.DEFINE_string(
    'write',
    None,
    'Write the JSON there; by default, with --config, to data.json in the '
    "run's folder. --write= writes nothing.",
)
_EXAMPLES = flags.DEFINE_integer(
    'examples', 3, 'Examples to show of each data set.', lower_bound=0
)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  if bool(_CONFIG.value) == bool(_SOURCE.value):
    sys.exit('error: give --config=, or --kind= and --source=')
  if _SOURCE.value and not _KIND.value:
    sys.exit('error: --source= needs --kind=: demonstrations, rankings, ...')
  from launch import pipeline

  pipeline.quiet_libraries()
  try:
    _report()
  except (ValueError, OSError, ImportError) as error:
    sys.exit(f'error: {_line(error)}')


def _report():
  from rlhf.data.report import text

  console = text.console()
  if _SOURCE.value:
    found = _of_source()
    reports, write = [found], _WRITE.value
  else:
    found = _of_config(_CONFIG.value)
    reports = found['datasets']
    write = _WRITE.value
    if write is None:
      write = os.path.join(found['root'], found['run'], 'data.json')
  if _JSON.value:
    print(json.dumps(found, indent=2))
  else:
    for report in reports:
      console.print(text.screen(report))
  if write:
    from etils import epath

    path = epath.Path(write)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + '\n')
    # What is asked for goes to stdout, and with --json nothing else.
    out = sys.stderr if _JSON.value else sys.stdout
    print(f'written to {write}', file=out)


def _of_source():
  from configs import common
  from rlhf.data import chat
  from rlhf.data.report import sources

  kind, source, template = _KIND.value, _SOURCE.value, _TEMPLATE.value
  assert kind and source  # Of main.
  rules = common.gpt3_data()
  data = (rules if _HYGIENE.value else rules | common.reading()) | dict(
      vocabulary=_VOCABULARY.value,
      prompt_tokens=_PROMPT_TOKENS.value,
      response_tokens=_RESPONSE_TOKENS.value,
      strict=_STRICT.value,
      chat_template=template,
      fields={kind: _fields()},
  )
  if template != 'plain':
    data['prompt_format'] = dataclasses.asdict(chat.prompt_format(template))
  dataset = sources.DataSet((kind,), kind, source)
  return _described(dataset, data)


def _fields():
  pairs = [field.partition('=') for field in _FIELDS.value]
  wrong = [name for name, equals, its in pairs if not (name and its)]
  if wrong:
    raise ValueError(f'--fields has {wrong[0]!r}: write OURS=ITS,OURS=ITS')
  return {name: its for name, _, its in pairs}


def _of_config(config):
  from rlhf.data.report import sources

  reports = []
  for dataset in sources.of_config(config):
    if not dataset.absent and not config.data.vocabulary:
      raise ValueError(
          'no vocabulary to count tokens with: set --config.data.vocabulary='
      )
    reports.append(_described(dataset, config.data))
  return {
      'stage': config.stage,
      'root': config.root,
      'run': config.run,
      'vocabulary': config.data.vocabulary,
      'datasets': reports,
  }


def _described(dataset, data):
  """The report on a data set of a data section."""
  found = {
      'name': ', '.join(dataset.names),
      'kind': dataset.kind,
      'source': dataset.source,
  }
  if dataset.absent:
    return found | {'absent': dataset.absent}
  # Late: TensorFlow takes seconds.
  from rlhf.data import report, vocabularies
  from rlhf.data.report import sources

  print(f'reading {found["name"]} ...', file=sys.stderr, flush=True)
  vocabulary = vocabularies.vocabulary(data['vocabulary'])
  splits, account = sources.read(dataset, data, vocabulary)
  described = report.describe(
      dataset.kind,
      splits,
      account,
      vocabulary,
      dataset.layout,
      examples=_EXAMPLES.value,
  )
  return found | {'vocabulary': data['vocabulary']} | described


def _line(error):
  """What is wrong, on one line."""
  what = error.args[0] if isinstance(error, LookupError) else error
  return ' '.join(str(what).split())


def _parse(argv):
  """Flags; what is wrong with them, or what a config says, is one line."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    # Of a config it has the whole traceback: the last line tells.
    last = str(error).strip().splitlines()[-1]
    sys.exit(f'error: {last.removeprefix("ValueError: ")}')
  except (ValueError, LookupError, AttributeError, OSError) as error:
    sys.exit(f'error: {_line(error)}')


if __name__ == '__main__':
  app.run(main, flags_parser=_parse)
