"""The incidents as data: the surfaces that show each with their first lines, its cure, and the steps.

A line has "…" for any text. ``{id}`` in a command stands for the id that the incident returns, ``{fingerprint}`` for
that of the first error of the alarm's command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.incidents import happens
from tests.incidents.platform import broken
from tests.integration.inspector.scene import Scene

UP = "the provider is back"
HELD = "0 at a time was set … ago by op: test, please …. Declared: 6 at a time. 2 tasks wait, the oldest for 20 min"


@dataclass(frozen=True, kw_only=True)
class Incident:
    """``what``, ``line``: the check that the start page and the doctor have first, and its finding.

    ``alarm``: the command in the text of its alarm, ``says``: the first line of its output, ``metric``: what the sweep
    writes for the alarm. Empty: no alarm rings, or the runs write its metric. ``fixed``: what others than the operator
    do. ``cure``: the commands, the last of which is the check that it worked, if ``checks``: words of its output.
    ``steps``: the alarm's command, or the start page, and ``cure``. ``most``: those of the best tool. ``shown``: other
    commands, with words of their outputs. ``stays``: the check counts the last day, so it stays after the cure.
    """

    happens: Callable[[Scene], str]
    what: str
    line: str
    alarm: str = ""
    says: str = ""
    metric: str = ""
    fixed: Callable[[Scene], object] = lambda scene: broken.clear()
    cure: tuple[str, ...]
    checks: str
    most: int
    shown: tuple[tuple[str, str], ...] = ()
    stays: bool = False

    @property
    def steps(self) -> int:
        return 1 + len(self.cure)


INCIDENTS = (
    Incident(
        happens=happens.mail_provider_is_down,
        what="runs of mail:send",
        line="82 of 92 runs in the last 15 minutes failed (89%): [new] ConnectionError: smtp.example.org refused the …",
        alarm="errors --within 1h --type mail:send",
        says="82 …ConnectionError: smtp.example.org…",
        shown=(("dead --newer 1h --type mail:send", "ConnectionError: smtp.example.org refused the connection"),),
        cure=(
            "pause type mail:send --reason down",
            f"resume type mail:send --reason '{UP}'",
            f"redrive {{fingerprint}} --canary 2 --rate 500 --reason '{UP}' --yes",
        ),
        checks="all 41 tasks sent again. Now 41 completed, 0 wait, 0 archived again",
        most=5,
    ),
    Incident(
        happens=happens.receipts_are_down,
        what="runs of invoice:charge",
        line="93 of 103 runs in the last 15 minutes failed (90%): [new] ConnectionError: receipts.example.org: no …",
        alarm="errors --within 1h --type invoice:charge",
        says="93 … 31 …ConnectionError: receipts.example.org: no route…",
        shown=(("runs invoice:charge --within 1h", "93 runs failed, 31 tasks in retry: [new] ConnectionError"),),
        cure=("errors --within 1h --type invoice:charge",),
        checks="93 … · …ConnectionError",
        most=2,
    ),
    Incident(
        happens=happens.bad_deploy,
        what="runs of data:export",
        line="31 of 41 runs in the last 15 minutes failed (76%): [new] TypeError: export() got an unexpected …",
        alarm="dead --newer 1h --type data:export",
        says="…31 …TypeError: export() got an unexpected argument…",
        shown=(("runs data:export", "deploy 3f2a1c0"),),
        cure=("redrive {fingerprint} --canary 2 --rate 500 --reason 'went back' --yes",),
        checks="all 31 tasks sent again. Now 31 completed, 0 wait, 0 archived again",
        most=2,
    ),
    Incident(
        happens=happens.tenant_floods,
        what="waits of webhook:deliver",
        line="64 tasks are due, the oldest for 30 min; the target is 10 min. Tenant megacorp has 60 of them",
        alarm="why webhook:deliver",
        says="warning …tenant megacorp has 60 of 64 due tasks…",
        metric="WaitingTooLong",
        shown=(("queues --by tenant", "megacorp"),),
        fixed=lambda scene: scene.sql("delete from joblane.tasks where tenant in ('globex', 'initech')"),
        cure=("pause tenant megacorp --for 1h --reason floods",),
        checks="Paused tenant megacorp until",
        most=2,
    ),
    Incident(
        happens=happens.schedules_run_away,
        what="frequent schedules",
        line="6 schedules have less than 5 minutes between two ticks, new or changed within a day, for example acme-…",
        shown=(("schedules --sort ticks", "1,440"),),
        cure=("schedules pause --tenant acme --reason runaway --yes",),
        checks="Paused 6 of 6 schedules.",
        most=2,
    ),
    Incident(
        happens=happens.old_snapshot,
        what="snapshots",
        line="the session … (user …, application a dump, idle in transaction) has kept dead rows for 40 min or longer…",
        alarm="doctor",
        says="warning  snapshots …the session…",
        metric="OldestSnapshotSeconds",
        cure=("doctor",),
        checks="all good",
        most=2,
    ),
    Incident(
        happens=happens.tick_is_missed,
        what="schedule report:daily:0",
        line="… of its ticks of the last day are missing, the latest at …",
        alarm="schedules",
        says="report:daily:0: … missed in 24 h: …",
        cure=("schedules run {id}",),
        stays=True,
        checks="Enqueued: ",
        most=2,
    ),
    Incident(
        happens=happens.ordered_key_is_poisoned,
        what="error of account:sync",
        line="new for … s: 1 run failed: ValueError: version # has no currency",
        alarm="dead --newer 1h --type account:sync",
        says="…1 …ValueError: version # has no currency…",
        shown=(("show {id}", "2 later tasks of key 42 of account:sync have completed; it would run after them."),),
        cure=("show {id}", "delete {id} --reason 'version 5 is right'"),
        checks="its payload, result and error are cleared",
        most=3,
    ),
    Incident(
        happens=happens.limit_is_zero,
        what="limit stripe",
        line=f"{HELD}; the target is 1 min",
        alarm="doctor",
        says=f"bad …limit stripe …{HELD}…",
        metric="LoweredLimits",
        shown=(("why invoice:charge", "it is 0, set by op, so none of its tasks starts; 2 wait"),),
        cure=("limits reset stripe --reason 'was a test'",),
        checks="stripe",
        most=2,
    ),
    Incident(
        happens=happens.redrive_is_wrong,
        what="bulk action {id}",
        line="started by op: back. Redrive: … of 41 tasks sent again. Now 0 completed, 0 wait, … archived again",
        shown=(("bulk ls", "mail:send"),),
        cure=("bulk abort {id} --reason 'too early'",),
        checks="Stop",
        most=2,
    ),
    Incident(
        happens=happens.member_of_a_batch_is_dead,
        what="error of import:row",
        line="new for … s: 1 run failed: ValueError: row # has # columns",
        alarm="dead --newer 1h --type import:row",
        says="…1 …ValueError: row # has # columns…",
        shown=(("batch show {id}", "on_success  import-7:on_success  data:export  held"),),
        cure=("batch retry {id} --reason 'fixed' --yes",),
        checks="1 of 1 task sent again. Now 1 completed",
        most=2,
    ),
    Incident(
        happens=happens.image_kills_its_process,
        what="runs of image:resize",
        line="2 of 12 runs in the last 15 minutes failed (17%): [new] Lost: the run did not report its end",
        alarm="errors --within 1h --type image:resize",
        says="2 …Lost: the run did not report its end…",
        cure=("show {id}",),
        checks="Lost",
        most=2,
    ),
)
