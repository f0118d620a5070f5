#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs launch/train.py on every host of a Cloud TPU slice, or of several slices,
# requested as a queued resource. docs/pods.md tells the whole story.
#
#   launch/tpu_pod.sh run    --name=NAME --zone=ZONE --accelerator=v5p-128 \
#       [OPTIONS] -- --config=configs/ppo_ptx.py:1.3b \
#       --config.root=gs://BUCKET/runs/1.3b ...
#   launch/tpu_pod.sh status --name=NAME --zone=ZONE
#   launch/tpu_pod.sh logs   --name=NAME --zone=ZONE [--node=0] [--worker=0]
#   launch/tpu_pod.sh ssh    --name=NAME --zone=ZONE [--node=0] [--worker=0]
#   launch/tpu_pod.sh delete --name=NAME --zone=ZONE
#
# `run` requests the machines, waits for them, installs the code on all hosts,
# starts the same command on all of them and shows the log of the first. When
# the machines are taken away it requests new ones and starts again: training
# goes on from its newest checkpoint. It deletes the machines when it ends, for
# whatever reason, Ctrl-C included.
#
# Every command:
#   --project=PROJECT        default: that of gcloud
#   --iap                    no external addresses; ssh through Identity-Aware
#                            Proxy
#   --dry-run                print the commands, one a line, and run none
# run:
#   --accelerator=TYPE       v4-, v5p-, v5litepod- or v6e-, and its size
#   --node-count=N           slices of that type (default 1)
#   --runtime=VERSION        default: the one for that type
#   --spot | --reserved      default: on demand
#   --network=, --subnetwork=, --service-account=
#   --repo=URL --commit=SHA  what to run; default: a copy of this working tree
#                            (what git ignores stays here)
#   --wait=DURATION          for machines (30m, 6h, 2d; default 1d)
#   --max-restarts=N         default 20
#   --poll=SECONDS           between two looks at the state (default 30)
#   --grace=SECONDS          for the other hosts, when the first has ended
#                            (default 300)
#   --keep                   leave the machines there at the end
#
# `run` exits with 0: finished; 2: bad options; 69: no machines; 75: restarted
# --max-restarts times, to no avail; 130: Ctrl-C; else with the code of the host
# on which training failed by itself (1: installing failed). It starts again
# after 75 (train.py: preempted, saved), 76 (train.py: another host died) and
# when the machines are gone, not after anything else.

set -euo pipefail

readonly queued=(gcloud compute tpus queued-resources)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root

# -- Words --------------------------------------------------------------------

usage() { sed -n '4,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

say() { printf 'tpu_pod.sh: %s\n' "$*" >&2; }

die() {  # CODE MESSAGE
  local code=$1
  shift
  say "$*"
  exit "$code"
}

bad() { die 2 "$* (--help tells more)"; }

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

# Also keeps, in $record, the lines that the functions `host_...` below write.
run_and_record() {
  if [[ $dry_run ]]; then
    quoted "$@"
    return
  fi
  : >"$record"
  local line
  # Not awk: mawk, Debian's, shows nothing before its buffer is full.
  "$@" | while IFS= read -r line || [[ $line ]]; do
    printf '%s\n' "$line"
    [[ $line != 'tpu_pod: '* ]] || printf '%s\n' "$line" >>"$record"
  done
}

# -- Options ------------------------------------------------------------------

name='' zone='' project='' accelerator='' node_count=1 runtime='' capacity=''
network='' subnetwork='' service_account='' iap='' repo='' commit='' wait=1d
max_restarts=20 poll=30 grace=300 keep='' dry_run='' node=0 worker=0
arguments=()

parse() {
  while (($#)); do
    case $1 in
      --name=* | --zone=* | --project=* | --accelerator=* | --runtime=* | \
        --network=* | --subnetwork=* | --repo=* | --commit=* | --wait=* | \
        --poll=* | --grace=* | --node=* | --worker=*)
        set_option "$1" ;;
      --node-count=*) node_count=${1#*=} ;;
      --service-account=*) service_account=${1#*=} ;;
      --max-restarts=*) max_restarts=${1#*=} ;;
      --spot | --reserved)
        [[ -z $capacity ]] || bad 'name one of --spot and --reserved'
        capacity=$1 ;;
      --iap) iap=1 ;;
      --keep) keep=1 ;;
      --dry-run) dry_run=1 ;;
      --help | -h) usage; exit ;;
      --) shift; arguments=("$@"); return ;;
      *) bad "unknown option ${1@Q}: options are written --name=VALUE" ;;
    esac
    shift
  done
}

set_option() {  # --NAME=VALUE
  local option=${1%%=*}
  printf -v "${option#--}" '%s' "${1#*=}"
}

check_common() {
  [[ $name ]] || bad 'missing --name=NAME'
  [[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    bad "--name=$name: at most 40 lower-case letters, digits and hyphens"
  [[ $zone ]] || bad 'missing --zone=ZONE'
  [[ $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] ||
    bad "--zone=$zone is not a zone, such as us-east5-a"
}

check_number() {  # OPTION VALUE LEAST
  if [[ ! $2 =~ ^[0-9]+$ ]] || (($2 < $3)); then
    bad "$1=$2: a number from $3"
  fi
}

check_run() {
  [[ $accelerator ]] || bad 'missing --accelerator=TYPE, such as v5p-128'
  check_accelerator
  check_number --node-count "$node_count" 1
  check_number --max-restarts "$max_restarts" 0
  check_number --grace "$grace" 1
  [[ $poll =~ ^[0-9]+(\.[0-9]+)?$ ]] || bad "--poll=$poll: seconds"
  [[ $wait =~ ^[0-9]+[mhd]$ ]] || bad "--wait=$wait: such as 30m, 6h, 2d"
  [[ ! $repo || $commit ]] || bad '--repo needs --commit=SHA'
  [[ ! $commit || $repo ]] || bad '--commit needs --repo=URL'
  [[ $repo != *://*@* || $repo == ssh://* ]] ||
    bad '--repo holds a credential, which every log would show'
  [[ " ${arguments[*]-}" == *' --config='* ]] ||
    bad "no --config=... for launch/train.py after --"
  [[ " ${arguments[*]}" == *' --config.root=gs://'* ]] ||
    bad '--config.root=gs://... is missing after --: hosts share nothing else'
}

# TPU types of the Cloud TPU API. v4 and v5p count TensorCores, two a chip, and
# come in parts of a cube of 64 chips or in whole cubes; the others count chips.
check_accelerator() {
  local size=${accelerator##*-}
  [[ $size =~ ^[1-9][0-9]*$ ]] || size=0
  case ${accelerator%-*} in
    v4) is_cubes "$size" 8192 && return ;;
    v5p) is_cubes "$size" 12288 && return ;;
    v5litepod | v6e)
      [[ ' 1 4 8 16 32 64 128 256 ' == *" $size "* ]] && return ;;
    v5e) bad "--accelerator=$accelerator: Cloud TPU calls v5e v5litepod" ;;
    tpu7x) bad "--accelerator=$accelerator is for GKE only: launch/gke.sh" ;;
  esac
  bad "--accelerator=$accelerator is no TPU slice: v4- or v5p- and 8, 16, 32," \
    '64 or a multiple of 128; v5litepod- or v6e- and 1, 4, 8, 16, ... 256'
}

is_cubes() {  # SIZE MOST
  [[ ' 8 16 32 64 ' == *" $1 "* ]] || (($1 > 0 && $1 % 128 == 0 && $1 <= $2))
}

runtime_version() {
  case $accelerator in
    v4-*) echo tpu-ubuntu2204-base ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
  esac
}

in_seconds() {  # 30m, 6h, 2d
  local -A unit=([m]=60 [h]=3600 [d]=86400)
  echo $((${1%?} * ${unit[${1: -1}]}))
}

# -- gcloud -------------------------------------------------------------------

# Sets the arrays that name the resource and reach its hosts.
prepare() {
  local tunnel=()
  place=("--zone=$zone" ${project:+"--project=$project"})
  [[ ! $iap ]] || tunnel=(--tunnel-through-iap)
  reach=("${place[@]}" "${tunnel[@]}")
  ssh=("${queued[@]}" ssh "$name" "${reach[@]}"
    # Notices within two minutes that the other end is gone.
    --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=4)
  describe=("${queued[@]}" describe "$name" "${place[@]}")
}

# Sets $state: that of the queued resource, or GONE. Does not take a lost
# connection for a lost machine.
look() {  # [TRIES]
  local try tries=${1:-10}
  if [[ $dry_run ]]; then
    quoted "${describe[@]}" '--format=value(state.state)'
    state=ACTIVE
    return
  fi
  for ((try = 1; try <= tries; try++)); do
    if state=$("${describe[@]}" '--format=value(state.state)' 2>"$errors"); then
      return
    elif grep -qiE 'not[_ ]found' "$errors"; then
      state=GONE
      return
    fi
    ((try == tries)) || { say 'gcloud does not answer; asking again'; pause; }
  done
  cat "$errors" >&2
  die 69 "cannot learn the state of $name"
}

pause() { sleep "$poll"; }

request() {
  local nodes=("--node-id=$name")
  ((node_count == 1)) ||
    nodes=("--node-count=$node_count" "--node-prefix=$name")
  requested=1 state=REQUESTED
  run "${queued[@]}" create "$name" "${place[@]}" \
    "--accelerator-type=$accelerator" "--runtime-version=$runtime" \
    "${nodes[@]}" ${capacity:+"$capacity"} "--valid-until-duration=$wait" \
    ${network:+"--network=$network"} ${subnetwork:+"--subnetwork=$subnetwork"} \
    ${service_account:+"--service-account=$service_account"} \
    ${iap:+--internal-ips} || die 69 "$name could not be requested (see above)"
}

# Returns 1 if the machines were taken away before they were ready.
wait_until_active() {
  local before='' deadline
  deadline=$((SECONDS + $(in_seconds "$wait")))
  while :; do
    look
    [[ $state == "$before" ]] || [[ $dry_run ]] || say "$name is $state"
    before=$state
    case $state in
      ACTIVE) return 0 ;;
      FAILED)
        "${describe[@]}" '--format=yaml(state)' >&2 || true
        die 69 "the request for $name failed: no capacity within" \
          "--wait=$wait, no quota, or an option that the zone does not offer" ;;
      SUSPENDING | SUSPENDED | DELETING | GONE) return 1 ;;
    esac
    ((SECONDS < deadline)) || die 69 "$name is still $state after $wait"
    pause
  done
}

release() {
  run "${queued[@]}" delete "$name" "${place[@]}" --force --quiet && state=GONE
}

# The last thing that `run` does.
clean_up() {
  local code=$?
  trap '' INT TERM HUP  # A second Ctrl-C must not leave machines behind.
  if [[ $requested && $keep ]]; then
    [[ $dry_run ]] || say "$name is kept, and costs: launch/tpu_pod.sh delete" \
      "--name=$name --zone=$zone"
  elif [[ $requested && $state != GONE ]]; then
    release || say "$name MAY STILL BE THERE, AND COST: look with" \
      "launch/tpu_pod.sh status --name=$name --zone=$zone"
  fi
  [[ $dry_run ]] || rm -rf "$scratch"
  exit "$code"
}

# -- run ----------------------------------------------------------------------

everywhere() { run "${ssh[@]}" --node=all --worker=all "--command=$1"; }

on_host() { quoted bash rlhf/launch/tpu_pod.sh "$@"; }

# A copy of the working tree, made before machines cost anything.
# shellcheck disable=SC2016
pack() {
  local list='git ls-files -z --cached --others --exclude-standard'
  local pack='tar --create --gzip --null --files-from=- --file="$2"'
  archive=build/tpu_pod-$name.tar.gz
  run bash -c 'set -o pipefail; cd "$1" && mkdir -p build && '"$list | $pack" \
    pack "$root" "$archive" || die 1 'could not pack the working tree'
}

install_code() {
  local unpack='mkdir rlhf && tar --extract --gzip --file=rlhf.tar.gz -C rlhf'
  if [[ $repo ]]; then
    unpack="git clone --quiet $(quoted "$repo") rlhf"
    unpack+=" && git -C rlhf checkout --quiet --detach $(quoted "$commit")"
  else
    run "${queued[@]}" scp "$root/$archive" "$name:rlhf.tar.gz" \
      "${reach[@]}" --node=all --worker=all || return
  fi
  everywhere "rm -rf rlhf && $unpack && $(on_host host-install)"
}

# Shows the log of the first host until the program has ended there. Returns 1
# if the machines are gone.
follow() {
  local start tries=0
  while :; do
    start=$SECONDS
    if run_and_record "${ssh[@]}" --node=0 --worker=0 \
      "--command=$(on_host host-follow "$attempt")" &&
      { [[ $dry_run ]] || grep -q '^tpu_pod: ended' "$record"; }; then
      return 0
    fi
    # gcloud has tried ten times by now (and exits with 0 if it found no host).
    ((SECONDS - start < 600)) || tries=0
    ((++tries < 10)) || return 1
    pause
    look
    [[ $state == ACTIVE ]] || return 1
    say 'lost the connection; following again'
  done
}

# One attempt. Sets $outcome: finished, again (on the same machines), gone, or
# failed with $code.
train() {
  outcome=gone
  if ! install_code ||
    ! everywhere "$(on_host host-start "$attempt" -- "${arguments[@]}")"; then
    pause
    look
    # On machines that have served before, the machines are to blame.
    if [[ $state == ACTIVE && $fresh ]]; then
      outcome=failed code=1
      say 'installing failed (see above); to reach several hosts, gcloud' \
        'wants ssh-add ~/.ssh/google_compute_engine first'
    fi
    return 0
  fi
  follow || return 0
  run_and_record "${ssh[@]}" --node=all --worker=all \
    "--command=$(on_host host-wait "$attempt" "$grace")" || true
  judge
}

# By the codes of all hosts: gcloud returns one of them, and when one host fails
# the others tell that another host died.
judge() {
  local codes='0' each
  [[ $dry_run ]] ||
    codes=$(sed -n 's/^tpu_pod: exit status of .*: //p' "$record")
  if [[ $codes && ! ${codes//[$'0\n']/} ]]; then
    outcome=finished
    return
  fi
  pause  # A preemption may end the program before it shows in the state.
  look
  [[ $state == ACTIVE ]] || return 0
  for each in $codes; do
    [[ $each =~ ^(0|75|76)$ ]] || { outcome=failed code=$each; return; }
  done
  [[ ! $codes ]] || outcome=again
}

run_job() {
  local attempt=0 restarts=0 fresh outcome code
  check_run
  runtime=${runtime:-$(runtime_version)}
  [[ $dry_run ]] || scratch=$(mktemp -d)
  record=$scratch/record errors=$scratch/errors requested='' state=''
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  [[ $repo ]] || pack
  look 1
  [[ $state == GONE || $dry_run ]] || die 69 "$name is there already" \
    "($state): take another name, or launch/tpu_pod.sh delete" \
    "--name=$name --zone=$zone"
  outcome=gone
  while :; do
    attempt=$((attempt + 1)) fresh=
    if [[ $outcome == gone ]]; then
      request
      fresh=1
      wait_until_active && train
    else
      train
    fi
    case $outcome in
      finished) [[ $dry_run ]] || say 'finished'; exit 0 ;;
      failed) die "$code" "failed with exit status $code, which a restart" \
        'would not cure' ;;
    esac
    ((restarts < max_restarts)) ||
      die 75 "gave up after $restarts restarts; to go on, run it again"
    restarts=$((restarts + 1))
    local -A why=([again]='ended early' [gone]='machines lost')
    say "${why[$outcome]} ($state): restart $restarts of at most $max_restarts"
    [[ $outcome == again || $state == GONE ]] || release ||
      die 69 "could not delete $name to request it again"
  done
}

# -- On a host ----------------------------------------------------------------
# These run there, out of the copy of the code in ~/rlhf. All may be repeated:
# gcloud runs a command again when its connection breaks.

readonly tick=${TPU_POD_TICK:-1}  # Seconds between two looks at a process.

# The images of TPU VMs come with a Python that is too old; uv brings another.
host_install() {
  if [[ ! -x ~/rlhf-venv/bin/python ]]; then
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.12 ~/rlhf-venv
  fi
  ~/rlhf-venv/bin/python -m pip install --quiet -e "$HOME/rlhf[tpu]"
}

# Starts training in a session of its own, which a lost connection leaves alone.
host_start() {  # ATTEMPT -- ARGUMENTS
  local folder=~/rlhf-job/$1
  shift 2
  mkdir -p ~/rlhf-job
  mkdir "$folder" 2>/dev/null || return 0  # Started before.
  cd ~
  # The inner shell outlives SIGTERM, to write down what the program made of it.
  # shellcheck disable=SC2016
  PYTHONUNBUFFERED=1 setsid bash -c \
    'trap : TERM; cd rlhf; "${@:2}"; echo $? >"$1/new"; mv "$1"/{new,status}' \
    start "$folder" ~/rlhf-venv/bin/python launch/train.py "$@" \
    </dev/null >"$folder/log" 2>&1 &
  echo $! >"$folder/pid"
}

host_follow() {  # [ATTEMPT]; by default the newest
  local shown folder=~/rlhf-job/${1:-$(find ~/rlhf-job -mindepth 1 \
    -printf '%P\n' | grep -xE '[0-9]+' | sort -n | tail -n 1)}
  tail --lines=200 --follow "$folder/log" &
  shown=$!
  disown
  until has_ended "$folder"; do sleep "$tick"; done
  sleep "$tick"  # For the last lines.
  kill "$shown"
  echo "tpu_pod: ended on $(hostname)"
}

# Tells the exit status, and ends what has not ended after SECONDS.
host_wait() {  # ATTEMPT SECONDS
  local folder=~/rlhf-job/$1
  await_end "$folder" "$2" || kill -TERM -- "-$(<"$folder/pid")" || true
  await_end "$folder" 30 || kill -KILL -- "-$(<"$folder/pid")" || true
  echo "tpu_pod: exit status of $(hostname):" \
    "$(cat "$folder/status" || echo 137)"
}

await_end() {  # FOLDER SECONDS
  local deadline=$((SECONDS + $2))
  until has_ended "$1"; do
    ((SECONDS < deadline)) || return 1
    sleep "$tick"
  done
}

has_ended() {  # FOLDER
  [[ -e $1/status ]] || ! kill -0 "$(<"$1/pid")" 2>/dev/null
}

# -- Commands -----------------------------------------------------------------

main() {
  local command=${1-}
  (($# == 0)) || shift
  case $command in
    host-install) host_install; return ;;
    host-start) host_start "$@"; return ;;
    host-follow) host_follow "$@"; return ;;
    host-wait) host_wait "$@"; return ;;
    --help | -h) usage; return ;;
    run | status | logs | ssh | delete) ;;
    '') bad 'which command? run, status, logs, ssh or delete' ;;
    *) bad "unknown command ${command@Q}: run, status, logs, ssh or delete" ;;
  esac
  parse "$@"
  check_common
  prepare
  case $command in
    run) run_job ;;
    status) run "${describe[@]}" ;;
    logs) run "${ssh[@]}" "--node=$node" "--worker=$worker" \
      "--command=$(on_host host-follow)" ;;
    ssh) run "${ssh[@]}" "--node=$node" "--worker=$worker" ;;
    delete) release ;;
  esac
}

scratch=
main "$@"
