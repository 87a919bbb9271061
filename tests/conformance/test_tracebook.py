"""
Tracebook's reference engine, written by others and knowing nothing of ours, agrees with the engine event by event.

Its campaigns make traces from seeds; each event's outcome, trades and the whole queue after it are compared, and a trace
that differs comes back cut down to the few events that show it.
"""

import importlib.util
import os
import sys
from functools import partial
from pathlib import Path

import pytest
from tracebook import CampaignProfile, ConformanceConfig, OrderType, SelfTradePolicy
from tracebook.conformance import (
    ExternalProcessAdapterFactory,
    campaign_profile_names,
    copy_bundled_conformance_suite,
    run_campaign,
    run_conformance,
    run_qualification,
)

PROGRAM = Path(__file__).with_name("adapter.py")
SPECIFICATION = importlib.util.spec_from_file_location("ringpit_tracebook_adapter", PROGRAM)
ADAPTER = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(ADAPTER)

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
SEED = 42
TRACES = 2 if INTERPRETED else 12
EVENTS = 200  # below 176 a trace may end before the generator's probe of priority
SOAK_TRACES = 100
SOAK_EVENTS = 400
ANSWER_SECONDS = 240.0  # the first answer may have to wait for compiled kernels
HOW = ("own verbs, ladder", "composed, skip list")
LEFT_OUT = {"pro-rata-allocation"}  # not among our rules
SUITES = {"v1": 8, "v2": 9}  # cases of each

FULL = (OrderType.LIMIT, OrderType.MARKET, OrderType.IOC, OrderType.FOK)
SELF_TRADE_PROFILES = [
    CampaignProfile(
        name=f"fifo-full-{policy.name.lower().replace('_', '-')}",
        description="What fifo-full-v1 generates, in books with self-trade prevention.",
        config=ConformanceConfig(self_trade_policy=policy),
        order_types=FULL,
    )
    for policy in (SelfTradePolicy.CANCEL_RESTING, SelfTradePolicy.CANCEL_INCOMING)
]


def name_of(profile):
    """Return a profile's name, for the test's."""
    return getattr(profile, "name", profile)


class Checked(ADAPTER.Candidate):
    """An exchange whose invariants are checked at the end of its trace."""

    def close(self):
        """Check them."""
        self.exchange.validate()


def candidate(how):
    """Return a factory of exchanges in this process, by one of `HOW`."""
    if how == HOW[0]:
        return partial(Checked, verbs="own", levels=ADAPTER.LevelKind.LADDER)
    return partial(Checked, verbs="composed", levels=ADAPTER.LevelKind.SKIP_LIST)


def shown(campaign):
    """Return what a failed campaign is about, to be read in the test's report."""
    if campaign.failure is None:
        return ""
    reduced = campaign.failure.minimization
    return "\n".join(
        [*(str(event.to_dict()) for event in reduced.events), str(reduced.report.divergence.to_dict())]
    )


@pytest.mark.parametrize(
    ("profile", "how"), [*((name, HOW[0]) for name in campaign_profile_names()), ("fifo-full-v1", HOW[1])]
)
def test_every_profile_of_theirs_qualifies(profile, how):
    """Their fixed cases pass, their generated traces conform, and each capability of the profile was exercised."""
    qualification = run_qualification(
        candidate(how), profile, seed=SEED, traces=TRACES, events_per_trace=EVENTS
    )
    assert "" == shown(qualification.campaign)
    assert len(qualification.selected_cases) == qualification.fixed_cases_passed
    assert TRACES == len(qualification.campaign.traces)
    if not INTERPRETED:
        assert () == qualification.campaign.semantic_coverage.uncovered_capabilities
        assert qualification.qualified


@pytest.mark.parametrize(("profile", "how"), list(zip(SELF_TRADE_PROFILES, HOW, strict=True)), ids=name_of)
def test_self_trade_prevention_conforms(profile, how):
    """Where an account meets itself both engines cancel the same orders, whatever the taker is."""
    campaign = run_campaign(candidate(how), profile, seed=SEED, traces=TRACES, events_per_trace=EVENTS)
    assert "" == shown(campaign)
    assert TRACES == len(campaign.traces)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("version", SUITES)
def test_every_bundled_case_conforms(version, how, tmp_path):
    """All hand-made cases of each suite conform, but the one that asks for pro-rata allocation."""
    suite = copy_bundled_conformance_suite(tmp_path / version, suite_version=version)
    assert SUITES[version] == len(suite.cases)
    for case in suite.cases:
        if case.name not in LEFT_OUT:
            report = run_conformance(case.load_events(), candidate(how), case.config, case.name)
            assert report.conformant, report.divergence


def test_the_program_speaks_the_protocol():
    """Over a pipe, as another program, it gives the same answers."""
    factory = ExternalProcessAdapterFactory([sys.executable, str(PROGRAM)], timeout_seconds=ANSWER_SECONDS)
    campaign = run_campaign(factory, "fifo-full-v1", seed=SEED, traces=1, events_per_trace=EVENTS)
    assert "" == shown(campaign)
    assert "ringpit" == campaign.candidate_engine.name


def test_a_wrong_priority_is_noticed():
    """An engine that loses its place at a reduction fails, and the trace is cut down to what shows it."""

    class Sloppy(ADAPTER.Candidate):
        def reduce(self, asked):
            """Replace the order by a smaller one, which goes to the back."""
            row = self.row_of(asked)
            if row is None or row["open"] <= ADAPTER.lots_of(asked.quantity):
                return super().reduce(asked)
            lots = int(row["open"]) - ADAPTER.lots_of(asked.quantity)
            self.command(ADAPTER.CommandKind.CANCEL, asked)
            return self.command(
                ADAPTER.CommandKind.NEW, asked, side=row["queue"], price=row["price"], quantity=lots
            )

    campaign = run_campaign(Sloppy, "fifo-limit-v1", seed=SEED, traces=TRACES, events_per_trace=EVENTS)
    assert not campaign.conformant
    assert len(campaign.failure.minimization.events) <= 5


@pytest.mark.soak
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("profile", [*campaign_profile_names(), *SELF_TRADE_PROFILES], ids=name_of)
def test_long_campaigns_conform(profile, how):
    """Hundreds of long traces from other seeds."""
    campaign = run_campaign(
        candidate(how), profile, seed=SEED + 1, traces=SOAK_TRACES, events_per_trace=SOAK_EVENTS
    )
    assert "" == shown(campaign)
    assert SOAK_TRACES == len(campaign.traces)
