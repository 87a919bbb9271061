"""What the doctor makes of machines: made-up trees of /proc and /sys, good ones, bad ones, and ones with nothing in them."""

import gzip

import pytest

from ringpit.shards import readiness
from ringpit.shards.jitter import Jitter
from ringpit.shards.readiness import Severity

OK, NOTE, WARNING, BAD = Severity
CPU = "sys/devices/system/cpu"
THP = "sys/kernel/mm/transparent_hugepage"
CLOCK = "sys/devices/system/clocksource/clocksource0/current_clocksource"
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max open files            {nofile:<20} 1048576              files
Max locked memory         {memlock:<20} 8388608              bytes
Max realtime priority     {rtprio:<20} 0
"""


@pytest.fixture
def machine(tmp_path):
    """Write a tree of files, and return its root."""

    def make(files=()):
        for path, content in dict(files).items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content + "\n")
        return tmp_path

    return make


ISOLATED = {f"{CPU}/isolated": "2-7", f"{CPU}/nohz_full": "2-7", "proc/cmdline": "quiet rcu_nocbs=2-7"}
SIBLINGS = {f"{CPU}/cpu{core}/topology/thread_siblings_list": f"{core % 2},{core % 2 + 2}" for core in range(4)}
CASES = [
    # reader, what stands there, severity, part of what is found
    (lambda root: readiness.isolation(root, spins=True), ISOLATED, OK, "isolcpus 2,3,4,5,6,7"),
    (lambda root: readiness.isolation(root, spins=True), {f"{CPU}/isolated": ""}, WARNING, "isolcpus none"),
    (lambda root: readiness.isolation(root, spins=False), {f"{CPU}/nohz_full": "(null)"}, NOTE, "nohz_full none"),
    (lambda root: readiness.isolation(root, spins=True), ISOLATED | {f"{CPU}/nohz_full": "3-7"}, WARNING, "nohz_full 3,"),
    (readiness.governor, {f"{CPU}/cpu0/cpufreq/scaling_governor": "performance"}, OK, "performance"),
    (readiness.governor, {f"{CPU}/cpu{n}/cpufreq/scaling_governor": g for n, g in enumerate(("performance", "schedutil"))},
     WARNING, "performance, schedutil"),
    (readiness.idle_states, {f"{CPU}/cpu0/cpuidle/state{n}/{key}": value for n, rows in enumerate((("POLL", "0"), ("C6", "133")))
     for key, value in (("name", rows[0]), ("latency", rows[1]), ("disable", "0"))}, NOTE, "C6 133 us"),
    (readiness.idle_states, {f"{CPU}/cpu0/cpuidle/state0/latency": "133", f"{CPU}/cpu0/cpuidle/state0/disable": "1"}, OK, "none"),
    (lambda root: readiness.smt(root, {0, 2}), SIBLINGS, WARNING, "pinned to both threads of 0,2"),
    (lambda root: readiness.smt(root, {0, 1}), SIBLINGS, NOTE, "2 pairs"),
    (lambda root: readiness.smt(root, set()), {f"{CPU}/cpu0/topology/thread_siblings_list": "0"}, OK, "a core for each"),
    (lambda root: readiness.numa(root, {1, 9}), {"sys/devices/system/node/node0/cpulist": "0-7", "sys/devices/system/node/node1/cpulist": "8-15"},
     WARNING, "node1: 8,"),
    (lambda root: readiness.numa(root, {1}), {"sys/devices/system/node/node0/cpulist": "0-7", "sys/devices/system/node/node1/cpulist": "8-15"},
     NOTE, "node0"),
    (lambda root: readiness.numa(root, {1}), {"sys/devices/system/node/node0/cpulist": "0-7"}, OK, "node0"),
    (lambda root: readiness.interrupts(root, {2}), {"proc/irq/24/effective_affinity_list": "2", "proc/irq/25/smp_affinity_list": "0-1"},
     WARNING, "1 on 2: 24"),
    (lambda root: readiness.interrupts(root, set()), ISOLATED | {"proc/irq/24/smp_affinity_list": "0-1"}, OK, "none on 2,"),
    (lambda root: readiness.interrupts(root, set()), {"proc/irq/24/smp_affinity_list": "0-1"}, NOTE, "no core is pinned"),
    (readiness.huge_pages, {f"{THP}/enabled": "[always] madvise never"}, WARNING, "always"),
    (readiness.huge_pages, {f"{THP}/enabled": "always [madvise] never"}, OK, "madvise"),
    (readiness.shared_huge_pages, {"proc/mounts": "tmpfs /dev/shm tmpfs rw,nosuid 0 0"}, NOTE, "huge=never"),
    (readiness.shared_huge_pages, {"proc/mounts": "proc /proc proc rw 0 0\ntmpfs /dev/shm tmpfs rw,huge=advise 0 0"}, OK, "huge=advise"),
    (readiness.shared_huge_pages, {"proc/mounts": "tmpfs /dev/shm tmpfs rw,huge=advise 0 0", f"{THP}/shmem_enabled": "never [deny]"},
     NOTE, "shmem_enabled deny"),
    (readiness.swapping, {"proc/swaps": "Filename Type\n/swap file", "proc/sys/vm/swappiness": "60"}, WARNING, "1 swap area, "),
    (readiness.swapping, {"proc/swaps": "Filename Type\n/swap file", "proc/sys/vm/swappiness": "1"}, OK, "swappiness 1"),
    (readiness.swapping, {"proc/swaps": "Filename Type", "proc/sys/vm/swappiness": "60"}, OK, "0 swap areas"),
    (readiness.numa_balancing, {"proc/sys/kernel/numa_balancing": "1"}, WARNING, "on"),
    (readiness.clock_source, {CLOCK: "tsc"}, OK, "tsc"),
    (readiness.clock_source, {CLOCK: "arch_sys_counter"}, OK, "arch_sys_counter"),
    (readiness.clock_source, {CLOCK: "hpet"}, BAD, "hpet"),
    (lambda root: readiness.timer_frequency(root, "6.1"), {"boot/config-6.1": "CONFIG_HZ_250=y\nCONFIG_HZ=250"}, NOTE, "250 Hz"),
    (readiness.mitigations, {f"{CPU}/vulnerabilities/spectre_v2": "Mitigation: IBRS", f"{CPU}/vulnerabilities/mds": "Not affected"},
     NOTE, "1 active: spectre_v2"),
    (readiness.mitigations, {"proc/cmdline": "mitigations=off"}, NOTE, "switched off"),
    (readiness.watchdog, {"proc/sys/kernel/watchdog": "1", "proc/sys/kernel/nmi_watchdog": "0"}, NOTE, "watchdog"),
    (readiness.watchdog, {"proc/sys/kernel/watchdog": "0"}, OK, "off"),
    (readiness.realtime_throttle, {"proc/sys/kernel/sched_rt_runtime_us": "950000", "proc/sys/kernel/sched_rt_period_us": "1000000"},
     NOTE, "950000 of 1000000"),
    (readiness.realtime_throttle, {"proc/sys/kernel/sched_rt_runtime_us": "-1", "proc/sys/kernel/sched_rt_period_us": "1000000"}, OK, "off"),
    (lambda root: readiness.other_load(root, 4), {"proc/loadavg": "3.10 1.0 1.0 1/100 4242"}, WARNING, "3.10 on 4 cores"),
    (lambda root: readiness.other_load(root, 64), {"proc/loadavg": "3.10 1.0 1.0 1/100 4242"}, OK, "3.10 on 64"),
    (readiness.quota, {"sys/fs/cgroup/cpu.max": "150000 100000"}, BAD, "1.5 cores in each 100 ms"),
    (readiness.quota, {"sys/fs/cgroup/cpu.max": "max 100000"}, OK, "none"),
    (readiness.virtual, {"proc/cpuinfo": "vendor_id : AuthenticAMD\nflags : fpu hypervisor", "sys/class/dmi/id/sys_vendor": "QEMU"}, NOTE, "QEMU"),
    (readiness.virtual, {"proc/cpuinfo": "vendor_id : GenuineIntel\nflags : fpu tsc"}, OK, "no hypervisor"),
    (readiness.virtual, {"proc/cpuinfo": "CPU implementer : 0x41\nFeatures : fp asimd atomics"}, OK, "no hypervisor"),
]  # fmt: skip


@pytest.mark.parametrize(("reader", "files", "severity", "found"), CASES)
def test_a_machine_is_judged_by_what_its_files_say(machine, reader, files, severity, found):
    """Severity and finding; whatever is a warning or bad says why and what to do."""
    finding = reader(machine(files))
    assert (severity, True) == (finding.severity, found in finding.found), finding
    assert finding.why
    assert severity < WARNING or finding.remedy


def test_a_machine_that_shows_nothing_is_no_error(tmp_path):
    """An empty tree, as a strict container may have: every reader answers, nothing is bad, and names are unique."""
    arguments = {"needed_bytes": 1, "needed_cores": 1, "allowed": {0, 1}, "pinned": {0}, "spins": False}
    findings = readiness.look(tmp_path, **arguments)
    assert [] == [finding for finding in findings if finding.severity > NOTE]
    assert len(findings) == len({finding.name for finding in findings})
    assert (0, 0) == readiness.stolen_of(tmp_path)


@pytest.mark.parametrize(("spins", "severity"), [(True, BAD), (False, NOTE)])
def test_too_few_cores_are_bad_only_for_who_spins(spins, severity):
    """Processes that sleep may share."""
    assert severity == readiness.cores({0, 1}, 6, spins=spins).severity
    assert OK == readiness.cores(set(range(8)), 6, spins=spins).severity


def test_limits_are_compared_with_what_is_needed(machine):
    """Soft limits: unlimited and enough are ok, too little names the line of the unit."""
    root = machine({"proc/self/limits": LIMITS.format(nofile="1024", memlock="unlimited", rtprio="0")})
    memlock, rtprio, nofile = readiness.limits(root, 1 << 30)
    assert (OK, "unlimited") == (memlock.severity, memlock.found)
    assert (NOTE, "0, wanted 1") == (rtprio.severity, rtprio.found)
    assert (WARNING, "1,024, wanted 4,096") == (nofile.severity, nofile.found)
    assert "LimitRTPRIO=50" in rtprio.remedy
    root = machine({"proc/self/limits": LIMITS.format(nofile="4096", memlock="8388608", rtprio="99")})
    assert [NOTE, OK, OK] == [each.severity for each in readiness.limits(root, 1 << 30)]


def test_shared_memory_must_hold_all_segments():
    """Too little is bad, and the remedy names a size that would do."""
    assert OK == readiness.shared_memory(10 << 20, 64 << 20, 64 << 20).severity
    short = readiness.shared_memory(100 << 20, 60 << 20, 64 << 20)
    assert (BAD, True, True) == (short.severity, "100 needed" in short.found, "size=164M" in short.remedy)


def test_the_kernel_s_configuration_may_be_packed(machine):
    """As /proc/config.gz has it; a file that is none is as good as nothing."""
    root = machine({"proc/version": ""})
    (root / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_HZ=1000\n"))
    assert "1000 Hz" == readiness.timer_frequency(root, "6.1").found
    (root / "proc/config.gz").write_bytes(b"no")
    assert "not shown" in readiness.timer_frequency(root, "6.1").found


def test_stolen_time_is_a_share_of_all_time(machine):
    """The eighth number of the first line of /proc/stat."""
    root = machine({"proc/stat": "cpu  10 0 10 70 0 0 0 10 5 5\ncpu0 1 1"})
    assert (10, 100) == readiness.stolen_of(root)
    assert OK == readiness.steal((10, 100), (10, 200)).severity
    taken = readiness.steal((10, 100), (15, 200))
    assert (WARNING, "5.00% while measuring") == (taken.severity, taken.found)


@pytest.mark.parametrize(
    ("longest_ns", "lost", "severity"),
    [(5_000, 0.0001, OK), (50_000, 0.0001, NOTE), (5_000, 0.2, NOTE), (5_000_000, 0.2, WARNING)],
)
def test_jitter_is_judged_by_its_longest_gap_and_what_it_cost(longest_ns, lost, severity):
    """Below 20 us and a thousandth of the time: ok; above 100 us: a warning."""
    finding = readiness.jitter(Jitter(3, 2.0, 10**8, 40, lost, 45, longest_ns))
    assert severity == finding.severity
    assert "core 3" in finding.found


@pytest.mark.parametrize(
    ("text", "numbers"), [("", set()), ("(null)", set()), ("0-2,5", {0, 1, 2, 5}), ("7", {7})]
)
def test_lists_of_cores_are_read_as_the_kernel_writes_them(text, numbers):
    """Ranges and single ones; nothing where there is none."""
    assert numbers == readiness.cores_of(text)
