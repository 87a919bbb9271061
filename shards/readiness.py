"""
What makes a machine fit for cores that spin: one function for each thing that can be in the way, and what to do about it.

    readers(root)  ──> Finding(name, severity, found, why, remedy)

Each reader is a function of a root folder, below which /proc, /sys and /boot are looked for, and of nothing else but what it is
given: so it can be tried on a tree that somebody made up. A file that is not there (containers hide many) is a finding, too, and no
error. Severities:

    ok        as it should be
    note      worth knowing; nothing to do, or not here
    warning   costs latency or throughput
    bad       an exchange would not start, or its figures would be worth nothing

Where a remedy is a boot parameter it belongs into GRUB_CMDLINE_LINUX, followed by update-grub and a reboot. docs/bare-metal.md has the
whole of it in order.
"""

import gzip
import os
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

from ringpit.ipc.segment import SHARED_MEMORY
from ringpit.shards.jitter import Jitter

GOOD_CLOCKS: Final = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")
EXIT_LATENCY_US_MAX: Final = 10  # of an idle state that a waiting core may fall into
UNLIMITED: Final = -1
NOFILE_MIN: Final = 4_096
SWAPPINESS_MAX: Final = 10
LOAD_SHARE_MAX: Final = 0.25  # of the cores, by others
STEAL_MAX: Final = 0.001
LONGEST_OK_NS, LONGEST_NOTE_NS = 20_000, 100_000  # of a gap
LOST_MAX: Final = 0.001
MEBIBYTE: Final = 1 << 20
BOOT: Final = "add to the boot parameters: "


class Severity(IntEnum):
    """How much it matters."""

    OK = 0
    NOTE = 1
    WARNING = 2
    BAD = 3


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    severity: Severity
    found: str
    why: str
    remedy: str = ""  # empty: nothing to do


# Reading ---------------------------------------------------------------------------------------------------


def text_of(root: Path, path: str) -> str:
    """Content of a file without the space around it; empty if it cannot be read."""
    try:
        return (root / path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def number_of(root: Path, path: str) -> int | None:
    """A file's number; None if there is none."""
    text = text_of(root, path)
    return int(text) if text.lstrip("-").isdecimal() else None


def cores_of(text: str) -> set[int]:
    """Core numbers of a list as the kernel writes it: 0-3,8,10-11."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal():
            numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def list_text(numbers: Iterable[int]) -> str:
    """Core numbers for people."""
    return ",".join(map(str, sorted(numbers)))


def parameter_of(root: Path, name: str) -> str | None:
    """Value of a boot parameter; None: it was not given."""
    for word in text_of(root, "proc/cmdline").split():
        key, _, value = word.partition("=")
        if key == name:
            return value
    return None


def chosen_of(text: str) -> str:
    """The word in brackets of `always [madvise] never`."""
    return text.partition("[")[2].partition("]")[0]


# Cores -----------------------------------------------------------------------------------------------------


def cores(allowed: set[int], needed: int, *, spins: bool) -> Finding:
    """Cores that this process may use, against processes and journal threads that want one."""
    found = f"{len(allowed)} usable ({list_text(allowed)}), {needed} wanted: a core for each process and journal thread"
    why = "two that spin on one core take turns of milliseconds; asleep they share it, and answer later"
    if len(allowed) >= needed:
        return Finding("cores", Severity.OK, found, why)
    severity = Severity.BAD if spins else Severity.NOTE
    return Finding(
        "cores",
        severity,
        found,
        why,
        'fewer shards, more cores, or [wait] mode = "sleep" where cores are shared',
    )


def isolation(root: Path, *, spins: bool) -> Finding:
    """Cores that the scheduler leaves alone, the tick stays off and callbacks go elsewhere."""
    isolated = cores_of(text_of(root, "sys/devices/system/cpu/isolated"))
    tickless = cores_of(text_of(root, "sys/devices/system/cpu/nohz_full"))
    quiet = cores_of(parameter_of(root, "rcu_nocbs") or "")
    found = "; ".join(
        f"{name} {list_text(numbers) or 'none'}"
        for name, numbers in (("isolcpus", isolated), ("nohz_full", tickless), ("rcu_nocbs", quiet))
    )
    why = "on a core that is not isolated the scheduler puts others, and the timer tick interrupts up to 1,000 times a second"
    if isolated and isolated <= tickless and isolated <= quiet | tickless:
        return Finding("isolation", Severity.OK, found, why)
    wanted = list_text(isolated) or "2-N"
    remedy = f"{BOOT}isolcpus=managed_irq,domain,{wanted} nohz_full={wanted} rcu_nocbs={wanted}; cores 0 and 1 stay for the system"
    return Finding("isolation", Severity.WARNING if spins else Severity.NOTE, found, why, remedy)


def governor(root: Path) -> Finding:
    """Clock frequency: fixed high, or chasing the load."""
    paths = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    chosen = {text_of(root, str(path.relative_to(root))) for path in paths}
    why = (
        "a governor that follows the load lets a core that waits run slowly, and takes milliseconds to speed up"
    )
    if not chosen:
        return Finding("governor", Severity.NOTE, "not shown: a virtual machine, or fixed by the firmware", why)
    found = ", ".join(sorted(chosen))
    if chosen == {"performance"}:
        return Finding("governor", Severity.OK, found, why)
    return Finding("governor", Severity.WARNING, found, why, "cpupower frequency-set -g performance")


def idle_states(root: Path) -> Finding:
    """Sleep of a core that has nothing to do: how long it takes to wake."""
    deep = []
    for state in sorted((root / "sys/devices/system/cpu/cpu0/cpuidle").glob("state*")):
        where = str(state.relative_to(root))
        latency, disabled = number_of(root, f"{where}/latency"), number_of(root, f"{where}/disable")
        if latency is not None and latency > EXIT_LATENCY_US_MAX and not disabled:
            deep.append(f"{text_of(root, f'{where}/name')} {latency} us")
    why = "a core in a deep idle state answers so much later; one that spins never gets there"
    if not deep:
        return Finding("idle states", Severity.OK, f"none wakes later than {EXIT_LATENCY_US_MAX} us", why)
    return Finding(
        "idle states",
        Severity.NOTE,
        ", ".join(deep),
        why,
        f"cpupower idle-set -D {EXIT_LATENCY_US_MAX}; or {BOOT}processor.max_cstate=1 intel_idle.max_cstate=0",
    )


def smt(root: Path, pinned: set[int]) -> Finding:
    """Whether two hardware threads share a core that should be one's own."""
    pairs = {
        text_of(root, str(path.relative_to(root)))
        for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    }
    shared = sorted(pair for pair in pairs if len(cores_of(pair)) > 1)
    why = "two threads of a core share its units and caches: each runs at about 60 %, and irregularly"
    if not shared:
        return Finding("smt", Severity.OK, "a core for each hardware thread" if pairs else "not shown", why)
    both = [pair for pair in shared if len(cores_of(pair) & pinned) > 1]
    if both:
        remedy = "leave one of each pair out of [cpu], or switch it off: echo off > /sys/devices/system/cpu/smt/control"
        return Finding("smt", Severity.WARNING, f"pinned to both threads of {'; '.join(both)}", why, remedy)
    found = f"{len(shared)} pairs: {'; '.join(shared[:4])}{' ...' if len(shared) > 4 else ''}"
    return Finding("smt", Severity.NOTE, found, why, "pin to one thread of each pair and leave the other idle")


def numa(root: Path, pinned: set[int]) -> Finding:
    """Memory nodes, and whether pinned cores lie on more than one."""
    nodes = {
        path.name: cores_of(text_of(root, f"{path.relative_to(root)}/cpulist"))
        for path in sorted((root / "sys/devices/system/node").glob("node[0-9]*"))
    }
    why = "a line from another node takes two to three times as long; a ring between nodes pays it at every hand-over"
    used = [name for name, members in nodes.items() if members & pinned]
    found = "; ".join(f"{name}: {list_text(members)}" for name, members in nodes.items()) or "not shown"
    if len(used) > 1:
        return Finding(
            "numa",
            Severity.WARNING,
            found,
            why,
            f"[cpu]: keep a shard and what feeds it on one of {', '.join(used)}",
        )
    return Finding("numa", Severity.OK if len(nodes) <= 1 else Severity.NOTE, found, why)


def interrupts(root: Path, pinned: set[int]) -> Finding:
    """Device interrupts that may land on cores that should be quiet."""
    quiet = pinned or cores_of(text_of(root, "sys/devices/system/cpu/isolated"))
    why = "an interrupt on a worker's core holds it up for 2 to 20 us"
    if not quiet:
        return Finding("interrupts", Severity.NOTE, "no core is pinned or isolated, so any may get them", why)
    there = []
    for path in sorted((root / "proc/irq").glob("[0-9]*"), key=lambda each: int(each.name)):
        # Where it really goes; older kernels tell only where it may.
        listed = text_of(root, f"proc/irq/{path.name}/effective_affinity_list") or text_of(
            root, f"proc/irq/{path.name}/smp_affinity_list"
        )
        if cores_of(listed) & quiet:
            there.append(path.name)
    if not there:
        return Finding("interrupts", Severity.OK, f"none on {list_text(quiet)}", why)
    remedy = "systemctl stop irqbalance (or IRQBALANCE_BANNED_CPULIST), then for each: echo 0-1 > /proc/irq/NUMBER/smp_affinity_list"
    found = f"{len(there)} on {list_text(quiet)}: {', '.join(there[:8])}{' ...' if len(there) > 8 else ''}"
    return Finding("interrupts", Severity.WARNING, found, why, remedy)


# Memory ----------------------------------------------------------------------------------------------------


def huge_pages(root: Path) -> Finding:
    """Transparent huge pages of anonymous memory: the books."""
    chosen = chosen_of(text_of(root, "sys/kernel/mm/transparent_hugepage/enabled"))
    why = "large tables want large pages; `always` lets the kernel stop a process to make some in the middle of the day"
    if not chosen:
        return Finding("transparent huge pages", Severity.NOTE, "not shown", why)
    if chosen == "always":
        remedy = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
        return Finding("transparent huge pages", Severity.WARNING, chosen, why, remedy)
    return Finding("transparent huge pages", Severity.OK, chosen, why)


def shared_huge_pages(root: Path) -> Finding:
    """Transparent huge pages of /dev/shm, where the rings lie: an option of its mount, which shmem_enabled can forbid."""
    mounts = [line.split() for line in text_of(root, "proc/mounts").splitlines()]
    options = next((fields[3] for fields in mounts if len(fields) > 3 and fields[1] == str(SHARED_MEMORY)), "")
    huge = next((word.partition("=")[2] for word in options.split(",") if word.startswith("huge=")), "never")
    denied = chosen_of(text_of(root, "sys/kernel/mm/transparent_hugepage/shmem_enabled")) == "deny"
    why = "rings of some megabytes miss the address cache less with pages of 2 MiB; worth a few percent"
    if not options:
        return Finding("shared huge pages", Severity.NOTE, "not shown", why)
    found = f"{SHARED_MEMORY} mounted with huge={huge}{', shmem_enabled deny' if denied else ''}"
    if huge == "never" or denied:
        remedy = f"mount -o remount,huge=advise {SHARED_MEMORY}"
        if denied:
            remedy += "; echo never > /sys/kernel/mm/transparent_hugepage/shmem_enabled"
        return Finding("shared huge pages", Severity.NOTE, found, why, remedy)
    return Finding("shared huge pages", Severity.OK, found, why)


def shared_memory(needed_bytes: int, free_bytes: int, total_bytes: int) -> Finding:
    """Room in /dev/shm for all segments of the configuration."""
    needed, free, total = (-(-each // MEBIBYTE) for each in (needed_bytes, free_bytes, total_bytes))
    found = f"{SHARED_MEMORY}: {free:,} MiB free of {total:,}, {needed:,} needed"
    why = "rings and words of all processes lie there; all of it is reserved at start"
    if needed_bytes <= free_bytes:
        return Finding("shared memory", Severity.OK, found, why)
    remedy = f"mount -o remount,size={total + needed}M {SHARED_MEMORY} (in a container: --shm-size={total + needed}m), or smaller rings and limits"
    return Finding("shared memory", Severity.BAD, found, why, remedy)


def swapping(root: Path) -> Finding:
    """Whether the kernel may put a book on the disk."""
    swaps = text_of(root, "proc/swaps").splitlines()[1:]
    eager = number_of(root, "proc/sys/vm/swappiness")
    why = "a page that comes back from the disk costs a millisecond"
    found = f"{len(swaps)} swap area{'' if len(swaps) == 1 else 's'}, swappiness {'not shown' if eager is None else eager}"
    if not swaps or (eager is not None and eager <= SWAPPINESS_MAX):
        return Finding("swap", Severity.OK, found, why)
    return Finding("swap", Severity.WARNING, found, why, "swapoff -a, or sysctl vm.swappiness=1")


def numa_balancing(root: Path) -> Finding:
    """Whether the kernel moves pages after the processes that use them."""
    value = number_of(root, "proc/sys/kernel/numa_balancing")
    why = "it takes pages away to see who touches them, and each touch is then a fault of microseconds"
    if value:
        return Finding("numa balancing", Severity.WARNING, "on", why, "sysctl kernel.numa_balancing=0")
    return Finding("numa balancing", Severity.OK, "not there" if value is None else "off", why)


# Kernel ----------------------------------------------------------------------------------------------------


def clock_source(root: Path) -> Finding:
    """What a look at the clock costs."""
    source = text_of(root, "sys/devices/system/clocksource/clocksource0/current_clocksource")
    why = "each frame is stamped: 20 to 30 ns with a counter of the processor, a microsecond with a device"
    if not source:
        return Finding("clock source", Severity.NOTE, "not shown", why)
    if source in GOOD_CLOCKS:
        return Finding("clock source", Severity.OK, source, why)
    remedy = f"{BOOT}clocksource=tsc tsc=reliable; in a virtual machine ask for kvm-clock"
    return Finding("clock source", Severity.BAD, source, why, remedy)


def timer_frequency(root: Path, release: str) -> Finding:
    """Ticks a second on a busy core."""
    why = "each tick interrupts a core that spins for 1 to 5 us, unless nohz_full keeps it off"
    content = text_of(root, f"boot/config-{release}")
    if not content:
        try:
            content = gzip.decompress((root / "proc/config.gz").read_bytes()).decode()
        except (OSError, EOFError, gzip.BadGzipFile):
            return Finding(
                "timer frequency", Severity.NOTE, "not shown: the kernel's configuration is not here", why
            )
    values = [line.partition("=")[2] for line in content.splitlines() if line.startswith("CONFIG_HZ=")]
    return Finding("timer frequency", Severity.NOTE, f"{values[0]} Hz" if values else "not shown", why)


def mitigations(root: Path) -> Finding:
    """Defences against leaks between processes, which cost at each system call."""
    active = sorted(
        path.name
        for path in (root / "sys/devices/system/cpu/vulnerabilities").glob("*")
        if text_of(root, str(path.relative_to(root))).startswith("Mitigation")
    )
    why = "they cost at each entry into the kernel, which matching never makes and brokers' sockets make often"
    if parameter_of(root, "mitigations") == "off":
        return Finding("mitigations", Severity.NOTE, "switched off at boot", why)
    remedy = f"{BOOT}mitigations=off, only on a machine that runs nobody else's code" if active else ""
    return Finding(
        "mitigations",
        Severity.NOTE,
        f"{len(active)} active: {', '.join(active)}" if active else "none",
        why,
        remedy,
    )


def watchdog(root: Path) -> Finding:
    """A timer on every core that looks whether it hangs."""
    on = [name for name in ("watchdog", "nmi_watchdog") if number_of(root, f"proc/sys/kernel/{name}")]
    why = "it interrupts each core every few seconds, and the hardware one takes a performance counter"
    if not on:
        return Finding("watchdog", Severity.OK, "off", why)
    return Finding(
        "watchdog", Severity.NOTE, ", ".join(on), why, "sysctl kernel.watchdog=0 kernel.nmi_watchdog=0"
    )


def realtime_throttle(root: Path) -> Finding:
    """Whether a real-time process that never sleeps is stopped now and then."""
    runtime, period = (number_of(root, f"proc/sys/kernel/sched_rt_{name}_us") for name in ("runtime", "period"))
    why = "a worker that spins with real-time priority loses the rest of each period, 50 ms of a second by default"
    if runtime is None or runtime < 0 or period is None or runtime >= period:
        return Finding("real-time throttle", Severity.OK, "not shown" if runtime is None else "off", why)
    return Finding(
        "real-time throttle",
        Severity.NOTE,
        f"{runtime} of {period} us",
        why,
        "sysctl kernel.sched_rt_runtime_us=-1, only with isolated cores and chrt",
    )


def limits(root: Path, needed_bytes: int) -> list[Finding]:
    """What this user's processes may lock, prioritize and open."""
    soft = soft_limits(root)
    lock = "LimitMEMLOCK=infinity in the systemd unit, or `memlock` in /etc/security/limits.conf"
    priority = "LimitRTPRIO=50 in the systemd unit, or `rtprio` in /etc/security/limits.conf"
    files = "LimitNOFILE=65536 in the systemd unit, or `nofile` in /etc/security/limits.conf"
    return [
        limit("memlock", soft.get("Max locked memory"), needed_bytes, "memory that is locked is never put on the disk", lock),
        limit("rtprio", soft.get("Max realtime priority"), 1, "real-time priority needs it: nobody without takes a core back", priority),
        limit("nofile", soft.get("Max open files"), NOFILE_MIN, "log segments, rings and connections are files", files),
    ]  # fmt: skip


def soft_limits(root: Path) -> dict[str, int]:
    """Soft limits of /proc/self/limits by the kernel's names; UNLIMITED where there is none."""
    soft = {}
    for line in text_of(root, "proc/self/limits").splitlines()[1:]:
        name, value = line[:26].strip(), line[26:47].strip()
        soft[name] = int(value) if value.isdecimal() else UNLIMITED
    return soft


def limit(name: str, value: int | None, wanted: int, why: str, remedy: str) -> Finding:
    """One limit against what is wanted."""
    if value is None:
        return Finding(name, Severity.NOTE, "not shown", why)
    if value == UNLIMITED or value >= wanted:
        return Finding(name, Severity.OK, "unlimited" if value == UNLIMITED else f"{value:,}", why)
    severity = Severity.WARNING if name == "nofile" else Severity.NOTE
    return Finding(name, severity, f"{value:,}, wanted {wanted:,}", why, remedy)


# Others ----------------------------------------------------------------------------------------------------


def other_load(root: Path, core_count: int) -> Finding:
    """Who else wants the cores."""
    text = text_of(root, "proc/loadavg").split()
    why = "figures measured beside other work are those of the scheduler"
    if not text:
        return Finding("other load", Severity.NOTE, "not shown", why)
    load = float(text[0])
    found = f"{load:.2f} on {core_count} cores over the last minute"
    if load <= LOAD_SHARE_MAX * core_count:
        return Finding("other load", Severity.OK, found, why)
    return Finding(
        "other load", Severity.WARNING, found, why, "see who it is (top), and stop it before measuring"
    )


def quota(root: Path) -> Finding:
    """Whether a control group takes the processor away for a part of each period."""
    limit, _, period = text_of(root, "sys/fs/cgroup/cpu.max").partition(" ")
    why = "a group that has used its quota stands still until the next period, tens of milliseconds"
    if not limit.isdecimal() or not period.isdecimal():
        return Finding("processor quota", Severity.OK, "none", why)
    share = int(limit) / int(period)
    return Finding(
        "processor quota",
        Severity.BAD,
        f"{share:g} cores in each {int(period) // 1_000} ms",
        why,
        "no quota, but cores of one's own: --cpuset-cpus instead of --cpus, whole numbers with the static CPU manager",
    )


def virtual(root: Path) -> Finding:
    """Whether this is a guest."""
    flags = next(
        (
            line
            for line in text_of(root, "proc/cpuinfo").splitlines()
            if line.lower().startswith(("flags", "features"))
        ),
        "",
    )
    vendor = text_of(root, "sys/class/dmi/id/sys_vendor")
    why = "a guest's core is a thread of another machine: what interrupts it there is not seen here"
    if "hypervisor" in flags.split():
        return Finding(
            "virtual machine",
            Severity.NOTE,
            vendor or "yes",
            why,
            "bare metal for figures that count; else dedicated cores, pinned by the host",
        )
    return Finding("virtual machine", Severity.OK, "no hypervisor is seen", why)


def stolen_of(root: Path) -> tuple[int, int]:
    """Ticks so far that another guest had, and all ticks, over all cores; (0, 0): not shown."""
    words = text_of(root, "proc/stat").partition("\n")[0].split()[1:]
    ticks = [int(word) for word in words if word.isdecimal()]
    return (ticks[7], sum(ticks[:8])) if len(ticks) >= 8 else (0, 0)


def steal(before: tuple[int, int], after: tuple[int, int]) -> Finding:
    """Time that the host gave to others, between two looks."""
    why = "while a guest's core is taken away its worker stands still, and nobody inside can tell"
    spent = after[1] - before[1]
    if spent <= 0:
        return Finding("steal", Severity.NOTE, "not shown", why)
    share = (after[0] - before[0]) / spent
    found = f"{share:.2%} while measuring"
    if share <= STEAL_MAX:
        return Finding("steal", Severity.OK, found, why)
    return Finding("steal", Severity.WARNING, found, why, "ask for dedicated cores, or for bare metal")


def jitter(seen: Jitter) -> Finding:
    """What a spinning core was kept from."""
    found = (
        f"core {seen.core}, {seen.seconds:.1f} s: longest gap {seen.longest_ns / 1_000:,.1f} us, p99.99 {seen.p99_99_ns:,} ns, "
        f"{seen.gaps:,} gaps of 1 us and more, {seen.lost_fraction:.3%} of the time"
    )
    why = "what holds this loop up holds a worker up: a floor under the tail of its latency"
    if seen.longest_ns <= LONGEST_OK_NS and seen.lost_fraction <= LOST_MAX:
        return Finding("jitter", Severity.OK, found, why)
    severity = Severity.NOTE if seen.longest_ns <= LONGEST_NOTE_NS else Severity.WARNING
    return Finding(
        "jitter",
        severity,
        found,
        why,
        "isolation, interrupts, governor, watchdog and other load, in this order; then measure again",
    )


def look(
    root: Path, *, needed_bytes: int, needed_cores: int, allowed: set[int], pinned: set[int], spins: bool
) -> list[Finding]:
    """Everything that is read and not measured, but /dev/shm."""
    return [
        cores(allowed, needed_cores, spins=spins),
        isolation(root, spins=spins),
        governor(root),
        idle_states(root),
        smt(root, pinned),
        numa(root, pinned),
        interrupts(root, pinned),
        huge_pages(root),
        shared_huge_pages(root),
        swapping(root),
        numa_balancing(root),
        clock_source(root),
        timer_frequency(root, os.uname().release),
        mitigations(root),
        watchdog(root),
        realtime_throttle(root),
        *limits(root, needed_bytes),
        other_load(root, len(allowed)),
        quota(root),
        virtual(root),
    ]
