#!/usr/bin/env bash
# Temporary Slurm cluster on one machine for tests: real slurmctld, slurmd and sbatch of Debian's packages.
# Needs no systemd, munge or cgroups, and root only for `install`. Uses free ports and writes to FOLDER only.
#   slurm_cluster.sh install        install Debian's packages
#   slurm_cluster.sh up FOLDER      start NODES nodes with CPUS cores, MEM MB and GPUS GPUs of type `test` each; they may
#                                   declare more than the machine has
#   slurm_cluster.sh env FOLDER     print the environment of clients: eval "$(slurm_cluster.sh env FOLDER)"
#   slurm_cluster.sh down FOLDER    cancel the jobs and stop the daemons
# Partitions: cpu (the default), gpu, and high, whose jobs preempt those of gpu.
set -euo pipefail
COMMAND=${1:?install, up, env or down}
NODES=${NODES:-2} CPUS=${CPUS:-8} MEM=${MEM:-200000} GPUS=${GPUS:-2}
DEVICES=(/dev/null /dev/zero /dev/full /dev/random)      # Slurm requires a separate character device per GPU
PATH=$PATH:/usr/sbin:/sbin

install_packages() {
  local as_root=() policy=/usr/sbin/policy-rc.d
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  # Keep the packages from starting daemons. The tests start them.
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin $policy
    trap "${as_root[*]} rm -f $policy" EXIT
  fi
  "${as_root[@]}" apt-get update -qq -o Acquire::http::Timeout=30 -o Acquire::Retries=1
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client
}

is_open() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

free_ports() {       # print the first of $1 consecutive free ports
  local first port
  while :; do
    first=$((20000 + RANDOM % 10000))
    for port in $(seq "$first" $((first + $1 - 1))); do is_open "$port" && continue 2; done
    echo "$first"; return
  done
}

all_idle() { [ "$(sinfo -h -N -p gpu -o %t 2> /dev/null | grep -c '^idle$')" = "$NODES" ]; }

start_cluster() {
  rm -rf "$FOLDER"; mkdir -p "$FOLDER"/{bin,log,run,spool,state}
  local host port node; host=$(hostname -s) port=$(free_ports $((NODES + 1)))
  cat > "$SLURM_CONF" <<EOD
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/none
CredType=cred/none
# Seconds before a requeued job starts again.
AuthInfo=cred_expire=20
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
TaskPlugin=task/none
# With linuxproc some processes outlive a scancel.
ProctrackType=proctrack/pgid
# Slurm measures memory every second and kills jobs above their limit. This works without cgroups.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0
PriorityType=priority/basic
GresTypes=gpu
# The nodes may declare more than the machine has.
SlurmdParameters=config_overrides
# Keep records of finished jobs for an hour.
MinJobAge=3600
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool/%n
SlurmctldPidFile=$FOLDER/run/slurmctld.pid
SlurmdPidFile=$FOLDER/run/slurmd.%n.pid
SlurmctldLogFile=$FOLDER/log/slurmctld.log
SlurmdLogFile=$FOLDER/log/slurmd.%n.log
NodeName=n[1-$NODES] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + NODES))] CPUs=$CPUS RealMemory=$MEM Gres=gpu:test:$GPUS State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=7-00:00:00 PriorityTier=10 State=UP
PartitionName=gpu Nodes=ALL MaxTime=7-00:00:00 PriorityTier=1 GraceTime=20 State=UP
PartitionName=high Nodes=ALL MaxTime=7-00:00:00 PriorityTier=10 State=UP
EOD
  printf 'Name=gpu Type=test Flags=nvidia_gpu_env File=%s\n' "${DEVICES[@]:0:GPUS}" > "$FOLDER/gres.conf"
  echo "CgroupPlugin=cgroup/v1" > "$FOLDER/cgroup.conf"  # unused, but without it slurmd exits in a container
  # Inside a job Snakemake calls srun without SLURM_CONF.
  printf '#!/bin/sh\nSLURM_CONF=%q exec %q "$@"\n' "$SLURM_CONF" "$(command -v srun)" > "$FOLDER/bin/srun"
  chmod +x "$FOLDER/bin/srun"
  slurmctld -c
  for node in $(seq "$NODES"); do mkdir -p "$FOLDER/spool/n$node"; slurmd -c -N "n$node"; done
  for _ in $(seq 300); do all_idle && return; sleep 0.1; done
  echo "the cluster did not start:" >&2; tail -v -n 15 "$FOLDER"/log/*.log >&2; return 1
}

print_environment() { printf 'export SLURM_CONF=%q PATH=%q:$PATH\n' "$SLURM_CONF" "$FOLDER/bin"; }

stop_cluster() {
  local environment process file
  scancel --user="$(id -un)" 2> /dev/null || true
  for _ in $(seq 150); do [ -z "$(squeue -h 2> /dev/null)" ] && break; sleep 0.1; done
  for environment in $(grep -Fxlsz "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ); do      # processes left by jobs
    process=${environment//[!0-9]/}
    if grep -qsz '^SLURM_JOB_ID=' "$environment"; then kill -9 "$process" 2> /dev/null || true; fi
  done
  for file in "$FOLDER"/run/slurmd.*.pid "$FOLDER/run/slurmctld.pid"; do
    [ -s "$file" ] || continue
    process=$(cat "$file")
    kill "$process" 2> /dev/null || continue
    for _ in $(seq 150); do kill -0 "$process" 2> /dev/null || break; sleep 0.1; done
  done
}

in_folder() {        # call function $1 on the cluster in folder $2
  FOLDER=$(realpath -m "${2:?the folder of the cluster is missing}")
  export SLURM_CONF=$FOLDER/slurm.conf
  "$1"
}

# The functions above must not be called `install` or `env`: they would replace the commands of that name.
case $COMMAND in
  install) install_packages ;;
  up) in_folder start_cluster "${2:-}" ;;
  env) in_folder print_environment "${2:-}" ;;
  down) in_folder stop_cluster "${2:-}" ;;
  *) echo "$COMMAND: install, up, env or down" >&2; exit 2 ;;
esac
