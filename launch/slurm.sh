#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs launch/train.py on GPU nodes of a Slurm cluster: submits itself with
# sbatch, and starts one process a GPU with srun. The repository, its .venv with
# the extra `gpu`, and the run's directory lie on a disk that all nodes share.
#
#   launch/slurm.sh --nodes=2 --gpus-per-node=8 [OPTIONS] -- \
#       --config=configs/ppo_ptx.py:1.3b --config.root=runs/1.3b ...
#
#   --name=NAME              of the job (default rlhf)
#   --nodes=N                default 1
#   --gpus-per-node=N        default 8
#   --process-per-node       one process a node, with all of its GPUs
#   --time=TIME              such as 1-00:00:00; default: the partition's
#   --partition=, --account=, --qos=
#   --python=PROGRAM         default .venv/bin/python
#   --max-restarts=N         default 20
#   --dry-run                print the command, and run nothing
#
# Slurm sends SIGTERM two minutes before the time is up or the job is preempted
# (PreemptParameters=send_user_signal). The job is requeued after exit codes 75
# (train.py: preempted, saved) and 76 (train.py: another host died) and, by
# Slurm, when a node fails; training goes on from its newest checkpoint. After
# any other code of any process the job ends with that code.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root

usage() { sed -n '4,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

bad() {
  printf 'slurm.sh: %s (--help tells more)\n' "$*" >&2
  exit 2
}

# The words as a line that a shell reads back as the same words.
quoted() {
  local word line=
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

# Every command that touches the world goes through here: done, or only shown.
run() {
  if [[ $dry_run ]]; then quoted "$@"; else "$@"; fi
}

name=rlhf nodes=1 gpus_per_node=8 process_per_node='' time='' partition=''
account='' qos='' python=.venv/bin/python max_restarts=20 dry_run=''
arguments=()

parse() {
  while (($#)); do
    case $1 in
      --name=* | --nodes=* | --time=* | --partition=* | --account=* | \
        --qos=* | --python=*)
        local option=${1%%=*}
        printf -v "${option#--}" '%s' "${1#*=}" ;;
      --gpus-per-node=*) gpus_per_node=${1#*=} ;;
      --max-restarts=*) max_restarts=${1#*=} ;;
      --process-per-node) process_per_node=1 ;;
      --dry-run) dry_run=1 ;;
      --help | -h) usage; exit ;;
      --) shift; arguments=("$@"); return ;;
      *) bad "unknown option ${1@Q}: options are written --name=VALUE" ;;
    esac
    shift
  done
}

check() {
  [[ $name =~ ^[A-Za-z0-9._-]+$ ]] || bad "--name=$name: letters, digits, . _ -"
  [[ $nodes =~ ^[1-9][0-9]*$ ]] || bad "--nodes=$nodes: a number from 1"
  [[ $gpus_per_node =~ ^[1-9][0-9]*$ ]] ||
    bad "--gpus-per-node=$gpus_per_node: a number from 1"
  [[ $max_restarts =~ ^[0-9]+$ ]] ||
    bad "--max-restarts=$max_restarts: a number"
  [[ " ${arguments[*]-}" == *' --config='* ]] ||
    bad 'no --config=... for launch/train.py after --'
}

submit() {
  local tasks=$gpus_per_node
  [[ ! $process_per_node ]] || tasks=1
  # Not --gpus-per-task: it hides from each process the GPUs of the others, and
  # JAX takes the one with the number of the process.
  run sbatch "--job-name=$name" "--nodes=$nodes" "--ntasks-per-node=$tasks" \
    "--gpus-per-node=$gpus_per_node" ${time:+"--time=$time"} \
    ${partition:+"--partition=$partition"} ${account:+"--account=$account"} \
    ${qos:+"--qos=$qos"} --requeue --signal=TERM@120 --open-mode=append \
    "--chdir=$root" "--output=$name-%j.log" "$root/launch/slurm.sh" batch \
    "--gpus-per-node=$gpus_per_node" \
    ${process_per_node:+--process-per-node} "--python=$python" \
    "--max-restarts=$max_restarts" -- "${arguments[@]}"
}

# The batch script: runs on the first node, in the repository.
batch() {
  local record=
  if [[ $process_per_node ]]; then
    # JAX gives a process under Slurm one GPU unless it is told otherwise.
    JAX_LOCAL_DEVICE_IDS=$(seq -s , 0 $((gpus_per_node - 1)))
    export JAX_LOCAL_DEVICE_IDS
  fi
  # SIGTERM is for the processes; this shell waits for what they make of it.
  trap : TERM
  [[ $dry_run ]] || record=$(mktemp)
  # When one has failed, the others notice by themselves (76); ten minutes later
  # srun ends them.
  steps srun --kill-on-bad-exit=0 --wait=600 bash launch/slurm.sh task \
    "--python=$python" -- "${arguments[@]}"
  [[ ! $dry_run ]] || return 0
  judge "$(sed -n 's/^slurm.sh: exit status of .*: //p' "$record")"
}

# Runs srun, and keeps in $record the lines that `task` writes.
steps() {
  if [[ $dry_run ]]; then
    quoted "$@"
    return
  fi
  local line
  # Not awk: mawk, Debian's, shows nothing before its buffer is full.
  "$@" | while IFS= read -r line || [[ $line ]]; do
    printf '%s\n' "$line"
    [[ $line != 'slurm.sh: '* ]] || printf '%s\n' "$line" >>"$record"
  done || true
}

# By the codes of all processes: srun returns the highest, and when one fails
# the others tell that another host died.
judge() {
  local each zeros=0
  rm -f "$record"
  for each in $1; do
    case $each in
      0) zeros=$((zeros + 1)) ;;
      75 | 76) ;;
      *)
        echo "slurm.sh: training failed with exit status $each" >&2
        exit "$each" ;;
    esac
  done
  ((zeros != SLURM_NTASKS)) || exit 0
  if ((${SLURM_RESTART_COUNT:-0} >= max_restarts)); then
    echo "slurm.sh: gave up after $max_restarts restarts" >&2
    exit 75
  fi
  echo 'slurm.sh: ended early; back into the queue' >&2
  scontrol requeue "$SLURM_JOB_ID" || exit 75
  sleep "${SLURM_SH_SLEEP:-120}"  # Slurm ends this script meanwhile.
  exit 75
}

# One process. The shell outlives SIGTERM, to tell what the program made of it.
task() {
  local status=0
  trap : TERM
  "$python" -u launch/train.py "${arguments[@]}" || status=$?
  echo "slurm.sh: exit status of process $SLURM_PROCID on $(hostname): $status"
  exit "$status"
}

main() {
  local command=submit
  case ${1-} in
    batch | task) command=$1; shift ;;
  esac
  parse "$@"
  check
  "$command"
}

main "$@"
