# SPDX-License-Identifier: Apache-2.0
"""The scripts that start jobs elsewhere: what they would run, and what they do.

Dry runs are compared with text. Then the scripts run for real, with programs of
the names gcloud, xpk, sbatch and srun first on the PATH: fakes that write down
their arguments and play a scenario. The fake gcloud runs the commands meant for
a host of the pod here, in a folder of that host.
"""

import contextlib
import json
import os
import pathlib
import re
import shlex
import signal
import stat
import subprocess
import sys
import tarfile
import time

import pytest
import yaml

from launch import pipeline
from tests.conftest import ROOT

_SCRIPTS = sorted((ROOT / 'launch').glob('*.sh'))
_TRAINING = ['--config=configs/ppo_ptx.py:1.3b', '--config.root=gs://b/runs/x']
_POD = ['--name=ppo', '--zone=us-east5-a']
_PLACE = '--zone=us-east5-a'


def _run(script, *arguments, path='/usr/bin:/bin', **more):
  return subprocess.run(
      ['bash', str(ROOT / 'launch' / script), *arguments],
      env={'PATH': path, 'HOME': '/nonexistent', 'LC_ALL': 'C', **more},
      capture_output=True, text=True, timeout=60,
  )


def _dry(script, *arguments):
  """The lines that a dry run prints."""
  done = _run(script, *arguments)
  assert (done.returncode, done.stderr) == (0, '')
  return done.stdout.splitlines()


# -- All scripts --------------------------------------------------------------


def _shellcheck(*arguments, text=None):
  program = pathlib.Path(sys.executable).parent / 'shellcheck'
  done = subprocess.run(
      [str(program), *arguments], input=text, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('path', _SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
  _shellcheck(str(path))


@pytest.mark.parametrize('path', _SCRIPTS, ids=lambda path: path.name)
def test_help_is_the_comment_at_the_top(path):
  assert os.access(path, os.X_OK)
  done = _run(path.name, '--help')
  assert done.returncode == 0
  comment = path.read_text().split('\n\n')[0].splitlines()[3:]
  assert done.stdout.splitlines() == [line[2:] for line in comment]
  assert f'launch/{path.name}' in done.stdout


_RUN_POD = ['run', *_POD, '--accelerator=v5p-128']
_RUN_GKE = ['run', '--name=ppo', '--cluster=c', '--tpu-type=v5p-128']
_BAD = [
    ('tpu_pod.sh', [], 'which command?'),
    ('tpu_pod.sh', ['start'], "unknown command 'start'"),
    ('tpu_pod.sh', ['run', '--zone=us-east5-a'], 'missing --name=NAME'),
    ('tpu_pod.sh', ['run', '--name=ppo'], 'missing --zone=ZONE'),
    ('tpu_pod.sh', ['run', '--name=PPO', _PLACE], '--name=PPO'),
    ('tpu_pod.sh', ['run', '--name=ppo', '--zone=here'], '--zone=here is not'),
    ('tpu_pod.sh', ['run', *_POD], 'missing --accelerator=TYPE'),
    ('tpu_pod.sh', [*_RUN_POD, '--frob=1'], "unknown option '--frob=1'"),
    ('tpu_pod.sh', [*_RUN_POD, '--spot', '--reserved'], 'name one of --spot'),
    ('tpu_pod.sh', [*_RUN_POD, '--node-count=0'], '--node-count=0: a number'),
    ('tpu_pod.sh', [*_RUN_POD, '--wait=soon'], '--wait=soon: such as 30m'),
    ('tpu_pod.sh', [*_RUN_POD, '--repo=https://x/y'], '--repo needs --commit'),
    ('tpu_pod.sh', [*_RUN_POD, '--repo=https://me:pw@x/y', '--commit=1'],
     '--repo holds a credential'),
    ('tpu_pod.sh', _RUN_POD, 'no --config=...'),
    ('tpu_pod.sh', [*_RUN_POD, '--', '--config=configs/sft.py'],
     '--config.root=gs://... is missing'),
    ('gke.sh', ['run', '--cluster=c'], 'missing --name=NAME'),
    ('gke.sh', ['run', '--name=ppo'], 'missing --cluster=CLUSTER'),
    ('gke.sh', ['run', '--name=ppo', '--cluster=c'], 'missing --tpu-type'),
    ('gke.sh', [*_RUN_GKE[:-1], '--tpu-type=h100-8'], '--tpu-type=h100-8'),
    ('gke.sh', [*_RUN_GKE, '--frob'], "unknown option '--frob'"),
    ('gke.sh', [*_RUN_GKE, '--priority=top'], '--priority=top'),
    ('gke.sh', [*_RUN_GKE, '--', '--config=configs/sft.py'],
     '--config.root=gs://... is missing'),
    ('slurm.sh', ['--frob'], "unknown option '--frob'"),
    ('slurm.sh', ['--nodes=two'], '--nodes=two: a number from 1'),
    ('slurm.sh', ['--nodes=2'], 'no --config=...'),
]


@pytest.mark.parametrize(
    'script,arguments,message', _BAD,
    ids=[f'{script}-{" ".join(words)}' for script, words, _ in _BAD],
)
def test_bad_options_give_one_line_and_status_2(script, arguments, message):
  done = _run(script, *arguments)
  assert done.returncode == 2
  assert done.stdout == ''
  assert done.stderr.startswith(f'{script}: {message}'), done.stderr
  assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize('accelerator', [
    'v5p', 'v5p-', 'v5p-4', 'v5p-100', 'v5p-192', 'v5p-12416', 'v6e-12',
    'v5e-16', 'tpu7x-8', 'v5litepod-512', 'h100-8', 'v4-8-8', 'v6e-016',
])
def test_unknown_slices_are_refused(accelerator):
  done = _run(
      'tpu_pod.sh', 'run', *_POD, f'--accelerator={accelerator}', '--dry-run',
      '--', *_TRAINING,
  )
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr.startswith(f'tpu_pod.sh: --accelerator={accelerator}')


@pytest.mark.parametrize('accelerator,runtime', [
    ('v4-8', 'tpu-ubuntu2204-base'), ('v5p-12288', 'v2-alpha-tpuv5'),
    ('v5litepod-1', 'v2-alpha-tpuv5-lite'), ('v6e-256', 'v2-alpha-tpuv6e'),
])
def test_known_slices_get_their_runtime_version(accelerator, runtime):
  create = _dry(
      'tpu_pod.sh', 'run', *_POD, f'--accelerator={accelerator}', '--dry-run',
      '--', *_TRAINING,
  )[2]
  assert f' --accelerator-type={accelerator} ' in create
  assert f' --runtime-version={runtime} ' in create


# -- Dry runs -----------------------------------------------------------------

_QUEUED = 'gcloud compute tpus queued-resources'
_STATE = f"{_QUEUED} describe ppo {_PLACE} '--format=value(state.state)'"
_ALIVE = (
    '--ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=4'
)
_SSH = f'{_QUEUED} ssh ppo {_PLACE} {_ALIVE}'
_HOST = 'bash rlhf/launch/tpu_pod.sh'


def test_dry_run_of_a_pod():
  assert _dry(
      'tpu_pod.sh', *_RUN_POD, '--repo=https://host/us/rlhf', '--commit=abc',
      '--dry-run', '--', *_TRAINING,
  ) == [
      _STATE,
      f'{_QUEUED} create ppo {_PLACE} --accelerator-type=v5p-128'
      ' --runtime-version=v2-alpha-tpuv5 --node-id=ppo'
      ' --valid-until-duration=1d',
      _STATE,
      f"{_SSH} --node=all --worker=all '--command=rm -rf rlhf"
      ' && git clone --quiet https://host/us/rlhf rlhf'
      ' && git -C rlhf checkout --quiet --detach abc'
      f" && {_HOST} host-install'",
      f"{_SSH} --node=all --worker=all '--command={_HOST} host-start 1 --"
      f" {_TRAINING[0]} {_TRAINING[1]}'",
      f"{_SSH} --node=0 --worker=0 '--command={_HOST} host-follow 1'",
      f"{_SSH} --node=all --worker=all '--command={_HOST} host-wait 1 300'",
      f'{_QUEUED} delete ppo {_PLACE} --force --quiet',
  ]


def test_dry_run_of_slices_with_every_option():
  place = f'{_PLACE} --project=p'
  ssh = f'{_QUEUED} ssh ppo {place} --tunnel-through-iap {_ALIVE}'
  state = _STATE.replace(_PLACE, place)
  archive = 'build/tpu_pod-ppo.tar.gz'
  assert _dry(
      'tpu_pod.sh', 'run', *_POD, '--project=p', '--accelerator=v6e-16',
      '--node-count=4', '--runtime=r', '--spot', '--network=n',
      '--subnetwork=s', '--service-account=a@p.iam', '--iap', '--wait=6h',
      '--grace=60', '--keep', '--dry-run', '--', *_TRAINING,
  ) == [
      """bash -c 'set -o pipefail; cd "$1" && mkdir -p build && git ls-files"""
      ' -z --cached --others --exclude-standard | tar --create --gzip --null'
      f""" --files-from=- --file="$2"' pack {ROOT} {archive}""",
      state,
      f'{_QUEUED} create ppo {place} --accelerator-type=v6e-16'
      ' --runtime-version=r --node-count=4 --node-prefix=ppo --spot'
      ' --valid-until-duration=6h --network=n --subnetwork=s'
      ' --service-account=a@p.iam --internal-ips',
      state,
      f'{_QUEUED} scp {ROOT}/{archive} ppo:rlhf.tar.gz {place}'
      ' --tunnel-through-iap --node=all --worker=all',
      f"{ssh} --node=all --worker=all '--command=rm -rf rlhf && mkdir rlhf"
      ' && tar --extract --gzip --file=rlhf.tar.gz -C rlhf'
      f" && {_HOST} host-install'",
      f"{ssh} --node=all --worker=all '--command={_HOST} host-start 1 --"
      f" {_TRAINING[0]} {_TRAINING[1]}'",
      f"{ssh} --node=0 --worker=0 '--command={_HOST} host-follow 1'",
      f"{ssh} --node=all --worker=all '--command={_HOST} host-wait 1 60'",
  ]


@pytest.mark.parametrize('command,expected', [
    ('status', f'{_QUEUED} describe ppo {_PLACE}'),
    ('logs', f"{_SSH} --node=1 --worker=3 '--command={_HOST} host-follow'"),
    ('ssh', f'{_SSH} --node=1 --worker=3'),
    ('delete', f'{_QUEUED} delete ppo {_PLACE} --force --quiet'),
])
def test_dry_run_of_the_other_commands_for_a_pod(command, expected):
  assert _dry(
      'tpu_pod.sh', command, *_POD, '--node=1', '--worker=3', '--dry-run'
  ) == [expected]


# Each of them breaks some careless way of quoting.
_AWKWARD = [
    "--config.data.prompt_format=it's a \"b\"",
    "--config.ppo.adaptive_kl={'target': 6.0}",
    '--config.data.text=gs://b/*.gz,$HOME `x` \\ ;&|<>#!~',
    '--config.run=two\nlines',
    '--config.folder=',
]


def test_a_pasted_line_means_what_was_given():
  lines = _dry(
      'tpu_pod.sh', *_RUN_POD, '--dry-run', '--', *_TRAINING, *_AWKWARD
  )
  start = next(line for line in lines if 'host-start' in line)
  # Once by the shell into which the line is pasted, once by that of the host.
  remote = shlex.split(start)[-1].removeprefix('--command=')
  words = subprocess.run(
      ['bash', '-c', f'printf "%s\\0" {remote}'],
      capture_output=True, text=True, check=True,
  ).stdout.split('\0')[:-1]
  assert words == [
      *_HOST.split(), 'host-start', '1', '--', *_TRAINING, *_AWKWARD
  ]


def test_dry_run_on_gke():
  common = (
      'xpk workload create --workload=ppo --cluster=c --zone=us-east5-a'
      ' --project=p --tpu-type=v5p-128 --num-slices=2'
  )
  restart = (
      '--restart-on-exit-codes=75,76 --termination-grace-period-seconds=120'
  )
  train = f'exec python -u launch/train.py {" ".join(_TRAINING)}'
  arguments = [*_RUN_GKE, _PLACE, '--project=p', '--num-slices=2', '--dry-run']
  assert _dry('gke.sh', *arguments, '--image=i:1', '--', *_TRAINING) == [
      f'{common} --docker-image=i:1 --priority=medium --max-restarts=20'
      f" {restart} '--command={train}'"
  ]
  copy = f'{ROOT}/build/gke-ppo'
  given = _dry('gke.sh', *arguments, '--', *_TRAINING)
  assert given[:3] == [
      f'rm -rf {copy}',
      f'mkdir -p {copy}',
      """bash -c 'git -C "$1" archive HEAD | tar --extract -C "$2"'"""
      f' copy {ROOT} {copy}',
  ]
  assert shlex.split(given[3]) == [
      *common.split(), '--base-docker-image=python:3.12',
      f'--script-dir={copy}', '--priority=medium', '--max-restarts=20',
      *restart.split(),
      f"--command=python -m pip install --quiet -e '.[tpu]' && {train}",
  ]


@pytest.mark.parametrize('command,expected', [
    ('wait', 'xpk workload list --cluster=c --wait-for-job-completion=ppo'),
    ('status', 'xpk workload list --cluster=c --filter-by-job=ppo'),
    ('delete', 'xpk workload delete --workload=ppo --cluster=c --force'),
])
def test_dry_run_of_the_other_commands_on_gke(command, expected):
  assert _dry(
      'gke.sh', command, '--name=ppo', '--cluster=c', '--dry-run'
  ) == [expected]


def test_dry_run_on_slurm():
  submit = (
      '--gpus-per-node={g}{more} --requeue --signal=TERM@120'
      f' --open-mode=append --chdir={ROOT} --output={{name}}-%j.log'
      f' {ROOT}/launch/slurm.sh batch --gpus-per-node={{g}}{{node}}'
      ' --python={python} --max-restarts={max} -- ' + ' '.join(_TRAINING)
  )
  assert _dry('slurm.sh', '--dry-run', '--', *_TRAINING) == [
      'sbatch --job-name=rlhf --nodes=1 --ntasks-per-node=8 '
      + submit.format(
          g=8, more='', name='rlhf', node='', python='.venv/bin/python', max=20
      )
  ]
  assert _dry(
      'slurm.sh', '--name=ppo', '--nodes=2', '--gpus-per-node=4',
      '--process-per-node', '--time=1-00:00:00', '--partition=gpu',
      '--account=a', '--qos=q', '--python=python3', '--max-restarts=3',
      '--dry-run', '--', *_TRAINING,
  ) == [
      'sbatch --job-name=ppo --nodes=2 --ntasks-per-node=1 '
      + submit.format(
          g=4,
          more=' --time=1-00:00:00 --partition=gpu --account=a --qos=q',
          name='ppo', node=' --process-per-node', python='python3', max=3,
      )
  ]
  assert _dry('slurm.sh', 'batch', '--dry-run', '--', *_TRAINING) == [
      'srun --kill-on-bad-exit=0 --wait=600 bash launch/slurm.sh task'
      f' --python=.venv/bin/python -- {" ".join(_TRAINING)}'
  ]


def _documented():
  """The commands of docs/pods.md that start one of the scripts."""
  text = (ROOT / 'docs' / 'pods.md').read_text().replace('\\\n', '')
  lines = [line.strip() for line in text.splitlines()]
  starts = re.compile('launch/[a-z_]+[.]sh ')
  return [shlex.split(line) for line in lines if starts.match(line)]


@pytest.mark.parametrize(
    'script,arguments',
    [(words[0], words[1:]) for words in _documented()],
    ids=lambda value: None if isinstance(value, list) else value,
)
def test_documented_commands_are_understood(script, arguments):
  """By the script, and what follows -- by the config that it names."""
  end = arguments.index('--') if '--' in arguments else len(arguments)
  name = pathlib.Path(script).name
  assert _dry(name, *arguments[:end], '--dry-run', *arguments[end:])
  for argument in arguments[end + 1 :]:
    flag, _, value = argument.removeprefix('--').partition('=')
    if flag == 'config':
      config = pipeline.load_config(value)
      continue
    field = config
    for part in flag.split('.')[1:]:
      field = field[part]


# -- A pod that is not there --------------------------------------------------

# Plays a scenario, a list of lives: each request for machines takes the next.
#   states: answers to `describe`, the last one for ever
#   exits: for each start on these machines, the exit status on each host
#   lost: the machines are SUSPENDED once training has ended
_GCLOUD = r"""
import json, os, pathlib, subprocess, sys
here = pathlib.Path(os.environ['FAKE'])
def read(name, default):
  path = here / name
  return json.loads(path.read_text()) if path.exists() else default
def write(name, value):
  (here / name).write_text(json.dumps(value))
command, words = sys.argv[4], sys.argv[5:]
with open(here / 'calls', 'a') as calls:
  calls.write(json.dumps([command, *words]) + '\n')
flags = [word[2:].split('=', 1) for word in words if word.startswith('--')]
flags = dict(flag for flag in flags if len(flag) == 2)
lives = read('lives.json', [])
life = read('life', None)
if command == 'create':
  write('life', 0 if life is None else life + 1)
  write('there', True)
  write('looked', 0)
  write('started', 0)
elif command == 'delete':
  write('there', False)
elif command == 'describe':
  if read('deaf', 0):
    write('deaf', read('deaf', 0) - 1)
    sys.exit('ERROR: cannot reach the server')
  if not read('there', False):
    sys.exit('ERROR: NOT_FOUND: Resource not found')
  looked = read('looked', 0)
  write('looked', looked + 1)
  states = lives[life]['states']
  state = states[min(looked, len(states) - 1)]
  if read('suspended', None) == life:
    state = 'SUSPENDED'
  print(state)
elif command == 'ssh':
  text, status = flags['command'], 0
  hosts = range(2) if flags['worker'] == 'all' else range(1)
  if read('suspended', None) == life:
    sys.exit(255)
  if 'host-start' in text:
    write('started', read('started', 0) + 1)
  for host in hosts:
    home = here / f'life{life}-host{host}'
    (home / 'bin').mkdir(parents=True, exist_ok=True)
    exits = lives[life]['exits'][max(read('started', 0) - 1, 0)]
    (home / 'exit').write_text(str(exits[host]))
    path = f'{here}/hostbin:' + os.environ['PATH']
    done = subprocess.run(
        ['bash', '-c', text], cwd=home,
        env={**os.environ, 'HOME': str(home), 'PATH': path})
    status = status or done.returncode
  if 'host-wait' in text and lives[life].get('lost'):
    write('suspended', life)
  sys.exit(status)
"""

# On a host, python3 makes a python that is train.py: it writes its arguments
# down and exits as the scenario says.
_HOST_PYTHON = r"""#!/bin/bash
if [ "$2" = uv ]; then
  mkdir -p ~/rlhf-venv/bin && cp "$0" ~/rlhf-venv/bin/python
elif [ "$1" = launch/train.py ]; then
  printf '%s\n' "$@" >>~/arguments
  echo "training on $(basename ~)"
  sleep "${FAKE_SECONDS:-0}" & wait
  exit "$(cat ~/exit)"
fi
"""

# What `git clone` and `tar` would bring.
_HOST_GIT = f"""#!/bin/bash
[ "$1" = clone ] || exit 0
[ ! -e "$FAKE/bad_repo" ] || exit 128
mkdir -p rlhf/launch && cp {ROOT}/launch/tpu_pod.sh rlhf/launch/
"""


def _program(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(path.stat().st_mode | stat.S_IXUSR)


class _Pod:
  """A folder with the fake gcloud, its scenario and what it was told."""

  def __init__(self, folder, lives):
    self.folder = folder
    (folder / 'lives.json').write_text(json.dumps(lives))
    _program(folder / 'bin' / 'gcloud', f'#!{sys.executable} -S{_GCLOUD}')
    _program(folder / 'hostbin' / 'python3', _HOST_PYTHON)
    _program(folder / 'hostbin' / 'git', _HOST_GIT)
    _program(folder / 'hostbin' / 'hostname', '#!/bin/sh\nbasename ~\n')
    self.environment = {
        'PATH': f'{folder}/bin:/usr/bin:/bin', 'FAKE': str(folder),
        'TMPDIR': str(folder), 'LC_ALL': 'C', 'TPU_POD_TICK': '0.05',
    }
    self.command = [
        'bash', str(ROOT / 'launch' / 'tpu_pod.sh'), *_RUN_POD,
        '--repo=https://host/us/rlhf', '--commit=abc', '--poll=0.05',
        '--grace=5',
    ]

  def run(self, *options):
    return subprocess.run(
        [*self.command, *options, '--', *_TRAINING, *_AWKWARD],
        env=self.environment, capture_output=True, text=True, timeout=60,
    )

  @property
  def calls(self):
    path = self.folder / 'calls'
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]

  @property
  def story(self):
    """The calls by name, without looks at the state."""
    names = []
    for command, *words in self.calls:
      text = ' '.join(words)
      for part in ('install', 'start', 'follow', 'wait'):
        if command == 'ssh' and f'host-{part}' in text:
          command = part
      if command != 'describe':
        names.append(command)
    return ' '.join(names)


_ATTEMPT = 'install start follow wait'
_READY = ['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE']


def test_a_pod_trains_and_is_deleted(tmp_path):
  pod = _Pod(tmp_path, [{'states': _READY, 'exits': [[0, 0]]}])
  done = pod.run()
  assert done.returncode == 0, done.stderr
  assert pod.story == f'create {_ATTEMPT} delete'
  for host in (0, 1):
    home = tmp_path / f'life0-host{host}'
    given = (home / 'arguments').read_text()
    assert given == '\n'.join(['launch/train.py', *_TRAINING, *_AWKWARD, ''])
  assert 'training on life0-host0' in done.stdout
  assert 'tpu_pod: exit status of life0-host1: 0' in done.stdout
  for state in _READY:
    assert f'ppo is {state}' in done.stderr
  # The dry run shows what was run.
  dry = subprocess.run(
      [*pod.command, '--grace=5', '--dry-run', '--', *_TRAINING, *_AWKWARD],
      env={'PATH': '/usr/bin:/bin'}, capture_output=True, text=True, check=True,
  ).stdout.splitlines()
  ran = [[*_QUEUED.split(), *call] for call in pod.calls]
  looks = [i for i, words in enumerate(ran) if words[4] == 'describe']
  # Looks are repeated in life: after the first, one stands for all.
  ran = [words for i, words in enumerate(ran) if i not in looks[2:]]
  # shlex doesn't know $'...'; bash does.
  words = subprocess.run(
      ['bash', '-c', '\n'.join(f"printf '%s\\0' {line}; echo" for line in dry)],
      capture_output=True, text=True, check=True,
  ).stdout.split('\0\n')[:-1]
  assert [line.split('\0') for line in words] == ran


def test_a_preempted_pod_is_requested_again(tmp_path):
  pod = _Pod(tmp_path, [
      {'states': ['ACTIVE'], 'exits': [[143, 143]], 'lost': True},
      # Taken away before it was ready.
      {'states': ['WAITING_FOR_RESOURCES', 'SUSPENDING'], 'exits': [[0, 0]]},
      {'states': ['ACTIVE'], 'exits': [[0, 0]]},
  ])
  done = pod.run('--spot')
  assert done.returncode == 0, done.stderr
  assert pod.story == (
      f'create {_ATTEMPT} delete create delete create {_ATTEMPT} delete'
  )
  assert 'machines lost (SUSPENDED): restart 1 of at most 20' in done.stderr
  arguments = [tmp_path / f'life{i}-host0' / 'arguments' for i in (0, 2)]
  assert arguments[0].read_text() == arguments[1].read_text()


@pytest.mark.parametrize('codes', [[0, 75], [76, 76]])
def test_75_and_76_are_started_again_on_machines_that_are_there(
    tmp_path, codes
):
  pod = _Pod(tmp_path, [{'states': ['ACTIVE'], 'exits': [codes, [0, 0]]}])
  done = pod.run()
  assert done.returncode == 0, done.stderr
  assert pod.story == f'create {_ATTEMPT} {_ATTEMPT} delete'
  assert 'ended early (ACTIVE): restart 1 of at most 20' in done.stderr


# gcloud would return 76 for the second: the others tell that a host died.
@pytest.mark.parametrize('codes,code', [
    ([1, 1], 1), ([76, 3], 3), ([0, 137], 137)
])
def test_a_run_that_failed_by_itself_is_not_started_again(
    tmp_path, codes, code
):
  pod = _Pod(tmp_path, [{'states': ['ACTIVE'], 'exits': [codes]}])
  done = pod.run()
  assert done.returncode == code
  assert pod.story == f'create {_ATTEMPT} delete'
  assert f'tpu_pod.sh: failed with exit status {code}' in done.stderr


def test_restarts_are_bounded(tmp_path):
  pod = _Pod(tmp_path, [{'states': ['ACTIVE'], 'exits': [[75, 75]] * 2}])
  done = pod.run('--max-restarts=1')
  assert done.returncode == 75
  assert pod.story == f'create {_ATTEMPT} {_ATTEMPT} delete'
  assert 'gave up after 1 restarts' in done.stderr


def test_a_failed_request_is_told_and_deleted(tmp_path):
  pod = _Pod(tmp_path, [{'states': [_READY[0], 'FAILED'], 'exits': []}])
  done = pod.run()
  assert done.returncode == 69
  assert pod.story == 'create delete'
  assert 'the request for ppo failed: no capacity within --wait=1d' in (
      done.stderr
  )


def test_waiting_for_machines_is_bounded(tmp_path):
  pod = _Pod(tmp_path, [{'states': [_READY[0]], 'exits': []}])
  done = pod.run('--wait=0m')
  assert done.returncode == 69
  assert pod.story == 'create delete'
  assert 'ppo is still WAITING_FOR_RESOURCES after 0m' in done.stderr


def test_an_installation_that_fails_is_not_tried_again(tmp_path):
  pod = _Pod(tmp_path, [{'states': ['ACTIVE'], 'exits': [[0, 0]]}])
  (tmp_path / 'bad_repo').touch()
  done = pod.run()
  assert done.returncode == 1
  assert pod.story == 'create install delete'
  assert 'installing failed' in done.stderr


def test_a_pod_of_that_name_is_left_alone(tmp_path):
  pod = _Pod(tmp_path, [{'states': ['ACTIVE'], 'exits': []}])
  (tmp_path / 'there').write_text('true')
  (tmp_path / 'life').write_text('0')
  done = pod.run()
  assert done.returncode == 69
  assert pod.story == ''
  assert 'ppo is there already (ACTIVE)' in done.stderr


def test_a_lost_connection_is_no_lost_pod(tmp_path):
  """`describe` fails three times while the pod is being waited for."""
  pod = _Pod(tmp_path, [{'states': ['ACTIVE'], 'exits': [[0, 0]]}])
  gcloud = tmp_path / 'bin' / 'gcloud'
  gcloud.write_text(gcloud.read_text().replace(
      "write('started', 0)", "write('started', 0); write('deaf', 3)", 1
  ))
  done = pod.run()
  assert done.returncode == 0, done.stderr
  assert pod.story == f'create {_ATTEMPT} delete'
  assert done.stderr.count('gcloud does not answer; asking again') == 3


def test_keep_leaves_the_machines(tmp_path):
  pod = _Pod(tmp_path, [{'states': ['ACTIVE'], 'exits': [[0, 0]]}])
  done = pod.run('--keep')
  assert done.returncode == 0, done.stderr
  assert pod.story == f'create {_ATTEMPT}'
  assert 'ppo is kept, and costs' in done.stderr


@pytest.mark.parametrize('sent,code', [
    (signal.SIGINT, 130), (signal.SIGTERM, 143)
])
def test_an_interrupted_run_deletes_its_machines(tmp_path, sent, code):
  pod = _Pod(tmp_path, [{'states': ['ACTIVE'], 'exits': [[0, 0]]}])
  running = subprocess.Popen(
      [*pod.command, '--', *_TRAINING], text=True, start_new_session=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env={**pod.environment, 'FAKE_SECONDS': '20'},
  )
  try:
    for line in running.stdout:
      if 'training on' in line:
        break
    os.killpg(running.pid, sent)  # As a terminal does.
    running.communicate(timeout=20)
  finally:
    for pid in tmp_path.glob('life*/rlhf-job/1/pid'):
      with contextlib.suppress(ProcessLookupError):
        os.killpg(int(pid.read_text()), signal.SIGKILL)
  assert running.returncode == code
  assert pod.story == 'create install start follow delete'


def test_a_host_starts_once_and_ends_what_hangs(tmp_path):
  pod = _Pod(tmp_path, [])
  (tmp_path / 'exit').write_text('0')
  _program(tmp_path / 'rlhf-venv' / 'bin' / 'python', _HOST_PYTHON)
  (tmp_path / 'rlhf').mkdir()

  def host(*words):
    return subprocess.run(
        ['bash', str(ROOT / 'launch' / 'tpu_pod.sh'), *words], text=True,
        env={**pod.environment, 'HOME': str(tmp_path), 'FAKE_SECONDS': '60'},
        capture_output=True, check=True, timeout=20,
    ).stdout

  host('host-start', '1', '--', 'a b')
  host('host-start', '1', '--', 'a b')  # gcloud repeats it.
  deadline = time.monotonic() + 10
  while not (tmp_path / 'arguments').exists():
    assert time.monotonic() < deadline
    time.sleep(0.05)
  assert (tmp_path / 'arguments').read_text() == 'launch/train.py\na b\n'
  # SIGTERM ends the program, and its shell writes down how: 128 + 15.
  assert host('host-wait', '1', '1').endswith(': 143\n')


def test_the_working_tree_is_packed_without_what_git_ignores(tmp_path):
  """The line of the dry run, in a repository of its own."""
  line = _dry(
      'tpu_pod.sh', *_RUN_POD, '--dry-run', '--', *_TRAINING
  )[0].replace(f'pack {ROOT} ', f'pack {tmp_path} ')
  (tmp_path / '.gitignore').write_text('build/\nsecret\n')
  for name in ('secret', 'new file', 'committed'):
    (tmp_path / name).write_text('')
  for words in (['init', '--quiet'], ['add', 'committed']):
    subprocess.run(['git', *words], cwd=tmp_path, check=True)
  subprocess.run(['bash', '-c', line], check=True)
  with tarfile.open(tmp_path / 'build' / 'tpu_pod-ppo.tar.gz') as archive:
    assert sorted(archive.getnames()) == ['.gitignore', 'committed', 'new file']


# -- GKE and Slurm that are not there -----------------------------------------

_RECORD = r"""#!/bin/bash
printf "%s\0" "$(basename "$0")" "$@" >>"$FAKE/calls"
"""


def _recorded(folder):
  return (folder / 'calls').read_text().split('\0')[:-1]


@pytest.mark.parametrize('script,program,arguments', [
    ('gke.sh', 'xpk', [*_RUN_GKE, '--image=i:1']),
    ('slurm.sh', 'sbatch', ['--nodes=2', '--partition=gpu']),
])
def test_what_is_run_is_what_the_dry_run_shows(
    tmp_path, script, program, arguments
):
  _program(tmp_path / 'bin' / program, _RECORD)
  path = f'{tmp_path}/bin:/usr/bin:/bin'
  training = ['--', *_TRAINING, *_AWKWARD]
  done = _run(script, *arguments, *training, path=path, FAKE=str(tmp_path))
  assert (done.returncode, done.stderr) == (0, '')
  shown = '\n'.join(_dry(script, *arguments, '--dry-run', *training))
  again = subprocess.run(
      ['bash', '-c', f'printf "%s\\0" {shown}'],
      capture_output=True, text=True, check=True,
  ).stdout.split('\0')[:-1]
  assert _recorded(tmp_path) == again
  assert again[-1] == _AWKWARD[-1] or script == 'gke.sh'


def test_a_container_of_gke_runs_the_command_that_was_given(tmp_path):
  """The string in --command is read by a shell: it gives the same words."""
  (create,) = _dry(
      'gke.sh', *_RUN_GKE, '--image=i:1', '--dry-run', '--', *_TRAINING,
      *_AWKWARD,
  )
  given = subprocess.run(
      ['bash', '-c', f'printf "%s\\0" {create}'],
      capture_output=True, text=True, check=True,
  ).stdout.split('\0')[-2].removeprefix('--command=')
  _program(tmp_path / 'bin' / 'python', _RECORD)
  subprocess.run(
      ['bash', '-c', f'({given})'], check=True,
      env={'PATH': f'{tmp_path}/bin:/usr/bin:/bin', 'FAKE': str(tmp_path)},
  )
  assert _recorded(tmp_path) == [
      'python', '-u', 'launch/train.py', *_TRAINING, *_AWKWARD
  ]


# Runs the command of each task; the fake python exits as $CODES says.
_SRUN = r"""#!/bin/bash
while [[ $1 == --* ]]; do shift; done
worst=0
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i "$@" || worst=$(($? > worst ? $? : worst))
done
exit "$worst"
"""
_TASK = r"""#!/bin/bash
echo "devices ${JAX_LOCAL_DEVICE_IDS-unset}"
codes=($CODES)
exit "${codes[$SLURM_PROCID]}"
"""


def _batch(folder, codes, *options, **more):
  _program(folder / 'bin' / 'srun', _SRUN)
  _program(folder / 'bin' / 'program', _TASK)
  _program(folder / 'bin' / 'scontrol', _RECORD)
  return subprocess.run(
      ['bash', str(ROOT / 'launch' / 'slurm.sh'), 'batch', '--python=program',
       *options, '--', *_TRAINING],
      cwd=ROOT, capture_output=True, text=True, timeout=30,
      env={
          'PATH': f'{folder}/bin:/usr/bin:/bin', 'FAKE': str(folder),
          'TMPDIR': str(folder), 'CODES': codes, 'SLURM_JOB_ID': '42',
          'SLURM_NTASKS': str(len(codes.split())), 'SLURM_SH_SLEEP': '0',
          **more,
      },
  )


@pytest.mark.parametrize('codes,restarts,code,requeued', [
    ('0 0', 0, 0, False),
    ('75 75', 0, 75, True),
    ('76 0', 19, 75, True),
    ('75 75', 20, 75, False),  # As often as --max-restarts allows.
    ('1 76', 0, 1, False),  # srun says 76.
    ('0 137', 0, 137, False),
])
def test_a_slurm_job_is_requeued_after_75_and_76_only(
    tmp_path, codes, restarts, code, requeued
):
  done = _batch(tmp_path, codes, SLURM_RESTART_COUNT=str(restarts))
  assert done.returncode == code, done.stderr
  assert (tmp_path / 'calls').exists() == requeued
  if requeued:
    assert _recorded(tmp_path) == ['scontrol', 'requeue', '42']


def test_a_slurm_process_with_all_gpus_of_its_node_says_so_to_jax(tmp_path):
  done = _batch(tmp_path, '0', '--process-per-node', '--gpus-per-node=4')
  assert 'devices 0,1,2,3' in done.stdout
  assert 'devices unset' in _batch(tmp_path, '0').stdout


# -- SkyPilot -----------------------------------------------------------------


def _sky():
  return yaml.safe_load((ROOT / 'launch' / 'sky.yaml').read_text())


def test_sky_names_fields_that_skypilot_has():
  """Those of the schema of SkyPilot 0.14 that this file may come to use."""
  task = _sky()
  assert set(task) <= {
      'name', 'workdir', 'num_nodes', 'resources', 'envs', 'secrets',
      'file_mounts', 'setup', 'run', 'config',
  }
  resources = task['resources']
  machine = {'infra', 'accelerators', 'accelerator_args', 'cpus', 'memory'}
  assert set(resources) <= machine | {
      'use_spot', 'disk_size', 'disk_tier', 'any_of', 'ordered', 'image_id',
      'job_recovery', 'labels', 'autostop', 'network_tier',
  }
  assert all(set(one) <= machine for one in resources['any_of'])
  assert resources['use_spot'] is True
  assert resources['job_recovery'] == {
      'max_restarts_on_errors': 0, 'recover_on_exit_codes': [75, 76],
  }
  assert all(isinstance(value, str) for value in task['envs'].values())


@pytest.mark.parametrize('part', ['setup', 'run'])
def test_shellcheck_finds_nothing_in_sky(part):
  # What comes from `envs`: shellcheck asks where it is set.
  envs = ''.join(f'export {name}=\n' for name in _sky()['envs'])
  _shellcheck('--shell=bash', '-', text=envs + _sky()[part])


@pytest.mark.parametrize('nodes,gpu', [(1, True), (2, True), (2, False)])
def test_what_sky_runs(tmp_path, nodes, gpu):
  _program(tmp_path / 'rlhf-venv' / 'bin' / 'python', _RECORD)
  if gpu:
    _program(tmp_path / 'bin' / 'nvidia-smi', '#!/bin/sh\n')
  subprocess.run(
      ['bash', '-c', _sky()['run']], check=True,
      env={
          'PATH': f'{tmp_path}/bin:/usr/bin:/bin', 'HOME': str(tmp_path),
          'FAKE': str(tmp_path), 'CONFIG': 'c.py:6b', 'ROOT': 'gs://b/r',
          'FLAGS': '--config.seed=1  --config.data.text=gs://b/*.gz',
          'SKYPILOT_NUM_NODES': str(nodes), 'SKYPILOT_NODE_RANK': '1',
          'SKYPILOT_NODE_IPS': '10.0.0.1\n10.0.0.2',
      },
  )
  hosts = [
      '--coordinator_address=10.0.0.1:8476', '--num_processes=2',
      '--process_id=1',
  ]
  assert _recorded(tmp_path) == [
      'python', '-u', 'launch/train.py', '--config=c.py:6b',
      '--config.root=gs://b/r', '--config.seed=1',
      '--config.data.text=gs://b/*.gz',
      *(hosts if nodes > 1 and gpu else []),
  ]
