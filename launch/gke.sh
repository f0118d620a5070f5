#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs launch/train.py on TPU slices of a GKE cluster, through XPK: a JobSet of
# one pod a host. The cluster is there already (docs/pods.md).
#
#   launch/gke.sh run    --name=NAME --cluster=CLUSTER --tpu-type=v5p-128 \
#       [OPTIONS] -- --config=configs/ppo_ptx.py:1.3b \
#       --config.root=gs://BUCKET/runs/1.3b ...
#   launch/gke.sh wait   --name=NAME --cluster=CLUSTER     until it has ended
#   launch/gke.sh status --name=NAME --cluster=CLUSTER
#   launch/gke.sh delete --name=NAME --cluster=CLUSTER
#
# Every command:
#   --zone=ZONE, --project=PROJECT   default: those of gcloud
#   --dry-run                print the commands, one a line, and run none
# run:
#   --num-slices=N           slices of that type (default 1)
#   --image=IMAGE            one that has this repository as its working
#                            directory, and what it needs installed; default:
#                            python:3.12 with the commit that is checked out
#                            here, which installs at each start
#   --max-restarts=N         default 20
#   --priority=LEVEL         very-low, low, medium (default), high, very-high
#   --grace=SECONDS          from SIGTERM to the end of a pod (default 120)
#
# The cluster restarts all pods after exit codes 75 (train.py: preempted,
# saved) and 76 (train.py: another host died), and after those on which XPK
# always does, 42 and 127 to 255: what a killed pod leaves. Any other code ends
# the workload.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root

usage() { sed -n '4,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

bad() {
  printf 'gke.sh: %s (--help tells more)\n' "$*" >&2
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

name='' cluster='' tpu_type='' zone='' project='' num_slices=1 image=''
max_restarts=20 priority=medium grace=120 dry_run=''
arguments=()

parse() {
  while (($#)); do
    case $1 in
      --name=* | --cluster=* | --zone=* | --project=* | --image=* | \
        --priority=* | --grace=*)
        local option=${1%%=*}
        printf -v "${option#--}" '%s' "${1#*=}" ;;
      --tpu-type=*) tpu_type=${1#*=} ;;
      --num-slices=*) num_slices=${1#*=} ;;
      --max-restarts=*) max_restarts=${1#*=} ;;
      --dry-run) dry_run=1 ;;
      --help | -h) usage; exit ;;
      --) shift; arguments=("$@"); return ;;
      *) bad "unknown option ${1@Q}: options are written --name=VALUE" ;;
    esac
    shift
  done
}

check_common() {
  [[ $name ]] || bad 'missing --name=NAME'
  [[ $cluster ]] || bad 'missing --cluster=CLUSTER'
  local each
  for each in "$name" "$cluster"; do
    [[ $each =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
      bad "$each: at most 40 lower-case letters, digits and hyphens"
  done
}

check_run() {
  [[ $tpu_type ]] || bad 'missing --tpu-type=TYPE, such as v5p-128'
  # XPK knows which sizes there are.
  [[ $tpu_type =~ ^(v4|v5p|v5litepod|v6e|tpu7x)-[1-9][0-9x-]*$ ]] ||
    bad "--tpu-type=$tpu_type: v4, v5p, v5litepod, v6e or tpu7x, and a size"
  [[ $num_slices =~ ^[1-9][0-9]*$ ]] || bad "--num-slices=$num_slices: a number"
  [[ $max_restarts =~ ^[0-9]+$ ]] ||
    bad "--max-restarts=$max_restarts: a number"
  [[ $grace =~ ^[0-9]+$ ]] || bad "--grace=$grace: seconds"
  [[ $priority =~ ^(very-low|low|medium|high|very-high)$ ]] ||
    bad "--priority=$priority: very-low, low, medium, high or very-high"
  [[ " ${arguments[*]-}" == *' --config='* ]] ||
    bad 'no --config=... for launch/train.py after --'
  [[ " ${arguments[*]}" == *' --config.root=gs://'* ]] ||
    bad '--config.root=gs://... is missing after --: hosts share nothing else'
}

run_job() {
  local command source=("--docker-image=$image")
  check_run
  # `exec`: XPK hands SIGTERM to the process that it started, and to no child.
  command="exec $(quoted python -u launch/train.py "${arguments[@]}")"
  if [[ ! $image ]]; then
    # A clean copy: XPK puts all of the folder into the image.
    local copy=$root/build/gke-$name
    run rm -rf "$copy"
    run mkdir -p "$copy"
    # One line for `run`, quoted whole.
    # shellcheck disable=SC2016
    run bash -c 'git -C "$1" archive HEAD | tar --extract -C "$2"' \
      copy "$root" "$copy"
    source=(--base-docker-image=python:3.12 "--script-dir=$copy")
    command="python -m pip install --quiet -e '.[tpu]' && $command"
  fi
  run xpk workload create "--workload=$name" "${place[@]}" \
    "--tpu-type=$tpu_type" "--num-slices=$num_slices" "${source[@]}" \
    "--priority=$priority" "--max-restarts=$max_restarts" \
    --restart-on-exit-codes=75,76 \
    "--termination-grace-period-seconds=$grace" "--command=$command"
}

main() {
  local command=${1-}
  (($# == 0)) || shift
  case $command in
    --help | -h) usage; return ;;
    run | wait | status | delete) ;;
    '') bad 'which command? run, wait, status or delete' ;;
    *) bad "unknown command ${command@Q}: run, wait, status or delete" ;;
  esac
  parse "$@"
  check_common
  place=("--cluster=$cluster" ${zone:+"--zone=$zone"}
    ${project:+"--project=$project"})
  case $command in
    run) run_job ;;
    wait) run xpk workload list "${place[@]}" \
      "--wait-for-job-completion=$name" ;;
    status) run xpk workload list "${place[@]}" "--filter-by-job=$name" ;;
    delete) run xpk workload delete "--workload=$name" "${place[@]}" --force ;;
  esac
}

main "$@"
