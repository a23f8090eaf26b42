"""Places: their declaration, what is refused with the reason, and where each process finds the lanes of a type."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from joblane import Lambda, Payload, Queue, Task, TaskContext, declare, task
from joblane import names as names_module
from joblane.errors import DeclarationError
from joblane.names import (
    PLACES,
    aliases_in,
    encode_places,
    function_name,
    home_of,
    lane_name,
    own_lane_name,
    queue_of,
    set_home,
    types_at,
    use_places,
)
from joblane.quotas import MEMORY_MB, Numbers
from joblane.tasks.places import check_places, lanes_of, numbers_of, places_of, places_text

DAY = timedelta(days=1)
WEB = Lambda("web", memory_mb=1024, batch_size=5, max_concurrency=20)


class Nothing(Payload):
    pass


@pytest.fixture(autouse=True)
def homes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another test finds no type of these tests."""
    monkeypatch.setattr(names_module, "_homes", {})
    monkeypatch.delenv(PLACES, raising=False)
    lane_name.cache_clear()
    yield
    lane_name.cache_clear()


def made(type_: str, place: Lambda | None = WEB, **options: Any) -> Task[Any, Any]:
    def function(payload: Nothing, ctx: TaskContext) -> None:
        pass

    function.__name__ = type_.replace(":", "_")
    return task(type_, runs_on=place, **options)(function)


def refusal(*tasks: Task[Any, Any]) -> str:
    with pytest.raises(DeclarationError) as caught:
        check_places(tasks)
    return str(caught.value)


# --- The declaration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        *(
            ({"name": name}, f"Lambda {name!r}: name: a lower-case letter")
            for name in ("", "Web", "9a", "a-b", "a" * 21)
        ),
        ({"name": None}, "Lambda None: name: a lower-case letter"),
        ({"name": "web\n"}, r"Lambda 'web\\n': name: a lower-case letter"),
        *(
            ({"name": name}, f"Lambda '{name}': name: it is a name of the library's own resources; choose another")
            for name in ("critical", "default", "low", "dlq", "router", "migrate", "control", "page", "cron")
        ),
        ({"memory_mb": 127}, "Lambda 'web': memory_mb: an integer from 128 to 10240 is required, not 127"),
        ({"memory_mb": 10241}, "memory_mb: an integer from 128 to 10240"),
        ({"memory_mb": True}, "memory_mb: an integer from 128 to 10240 is required, not True"),
        ({"memory_mb": None}, "memory_mb: an integer"),
        ({"batch_size": 0}, "batch_size: an integer from 1 to 10 is required, not 0"),
        ({"batch_size": 11}, "batch_size: an integer from 1 to 10"),
        ({"batch_size": "5"}, "batch_size: an integer from 1 to 10 is required, not '5'"),
        ({"max_concurrency": 1}, "max_concurrency: an integer from 2 to 1000 is required, not 1"),
        ({"max_concurrency": 1001}, "max_concurrency: an integer from 2 to 1000"),
        ({"image": "my-image"}, "image: the name of an image in the stage's `images` is required, a lower-case letter"),
        ({"image": 3}, "image: the name of an image"),
        ({"drains": "mail:send"}, r"drains: a tuple of types is required, for example \('mail:send',\)"),
        ({"drains": 5}, "drains: a tuple of types is required"),
        ({"drains": ("mail",)}, "drains: 'mail' is not a type, such as 'mail:send'"),
        ({"drains": (made,)}, "drains: .* is not a type"),
    ],
)
def test_an_invalid_place_is_refused_with_its_field(options: dict[str, Any], why: str) -> None:
    with pytest.raises(DeclarationError, match=why):
        Lambda(**{"name": "web", **options})


def test_the_ends_of_every_range_are_accepted() -> None:
    accepted: tuple[dict[str, Any], ...] = (
        {"name": "a"},
        {"name": "a" * 20},
        {"memory_mb": MEMORY_MB.start},
        {"memory_mb": 10240},
        {"batch_size": 1},
        {"batch_size": 10},
        {"max_concurrency": 2},
        {"max_concurrency": 1000},
        {"image": "web"},
    )
    for options in accepted:
        Lambda(**{"name": "web", **options})


def test_any_series_of_drained_types_is_kept() -> None:
    """Tasks are grouped by their place, so it has a hash."""
    of_list = Lambda("web", drains=["card:list", "card:send"])  # type: ignore[arg-type]
    assert of_list.drains == ("card:list", "card:send")
    assert Lambda("web", drains=(name for name in ["card:list"])).drains == ("card:list",)  # type: ignore[arg-type]
    assert list(places_of([made("card:list", of_list)])) == [of_list]


@pytest.mark.parametrize("option", [{"memory_mb": 512}, {"batch_size": 1}, {"max_concurrency": 9}])
def test_an_option_of_the_function_belongs_to_the_place(option: dict[str, Any]) -> None:
    [name] = option
    with pytest.raises(
        DeclarationError,
        match=f"^task 'card:list': {name}: it belongs to Lambda 'web', on which the task runs; set it there$",
    ):
        made("card:list", **option)
    assert getattr(made("card:list"), name) == getattr(WEB, name)
    assert getattr(made("card:list", None, **option), name) == option[name]


def test_a_place_is_an_object_and_not_its_name() -> None:
    with pytest.raises(
        DeclarationError, match=r"runs_on: a place is required, such as WEB = Lambda\(\"web\"\), not 'web'"
    ):
        made("card:list", "web")  # type: ignore[arg-type]


@pytest.mark.parametrize("type_", ["jobs:sweep", "jobs:bulk", "system:alert"])
def test_a_type_of_the_library_or_the_system_has_its_own_function(type_: str) -> None:
    with pytest.raises(DeclarationError, match=rf"^task '{type_}': runs_on: types of jobs:\* and system:\* have"):
        made(type_)


def test_a_resumable_task_is_refused_on_a_place_with_a_batch() -> None:
    with pytest.raises(DeclarationError, match="task 'card:list': batch_size of Lambda 'web': a resumable task takes"):
        made("card:list", resumable=True)
    made("card:list", Lambda("alone"), resumable=True)


def test_a_timeout_that_does_not_fit_the_batch_of_the_place_is_refused() -> None:
    with pytest.raises(DeclarationError, match="timeout 0:03:00 with batch_size 5 needs a function timeout of 0:15:10"):
        made("card:list", timeout=timedelta(minutes=3))


# --- Several tasks -------------------------------------------------------------------------------------------------


def test_two_places_of_one_name_are_refused_unless_they_are_equal() -> None:
    other = Lambda("web", memory_mb=512)
    assert refusal(made("card:list"), made("card:send", other)) == (
        "Lambda 'web': name: tasks 'card:list' and 'card:send' run on two places of this name with different options; "
        "declare the place once and import it in both handlers"
    )
    check_places([made("card:list", Lambda("web")), made("card:send", Lambda("web"))])


def test_types_with_and_without_a_front_door_are_refused_on_one_place() -> None:
    assert refusal(made("card:list"), made("card:send", front_door=False)).startswith(
        "Lambda 'web': front_door: 'card:list' takes external messages and 'card:send' does not, and their lane is one"
    )
    check_places([made("card:list", front_door=False), made("card:send", front_door=False), made("card:print", None)])


def test_a_place_drains_only_types_that_it_runs() -> None:
    place = Lambda("web", drains=("card:post", "mail:send"))
    assert refusal(made("card:list", place), made("card:send", place, aliases=["card:post"])) == (
        "Lambda 'web': drains: 'mail:send' does not run here; it runs card:list, card:post, card:send"
    )
    check_places([made("card:list", place)], complete=False)  # a development server leaves out a broken handler


def test_receives_that_do_not_fit_the_visibility_of_another_type_are_refused() -> None:
    place = Lambda("web")
    often, slow = made("card:list", place, max_retry=100), made("card:send", place, timeout=timedelta(seconds=890))
    long = made("card:print", place, timeout=DAY, resumable=True, max_retry=1)
    numbers = numbers_of(place, [often, slow])
    assert numbers.function_timeout == slow.numbers.function_timeout
    assert numbers.visibility == slow.numbers.visibility
    assert slow.numbers.max_receive_count < numbers.max_receive_count
    assert numbers.max_receive_count * numbers.visibility < 10 * DAY
    assert refusal(slow, long) == (
        "Lambda 'web': task 'card:print' needs 966 receives of 0:15:11 each, the visibility timeout that 'card:send' "
        "needs, and 948 are possible; lower max_retry of 'card:print', or let 'card:send' run elsewhere"
    )


def test_the_numbers_of_a_place_with_one_task_are_those_of_the_task() -> None:
    for options in ({}, {"timeout": timedelta(hours=2), "resumable": True}, {"max_retry": 0}):
        made_ = made("card:list", Lambda("web"), **options)
        assert numbers_of(Lambda("web"), [made_]) == made_.numbers
        assert Numbers.of_place({"card:list": made_.numbers}, "x") == made_.numbers


# --- Names ---------------------------------------------------------------------------------------------------------


def test_the_lanes_and_the_function_of_a_type_have_the_name_of_its_place() -> None:
    made("card:list", aliases=["card:all"])
    for type_ in ("card:list", "card:all"):
        assert lane_name("jobs", Queue.LOW, type_) == "jobs-low-web"
        assert function_name("jobs", type_) == "jobs-web"
        assert own_lane_name("jobs", Queue.LOW, type_) == f"jobs-low-{type_.replace(':', '-')}"
    assert queue_of("jobs", "jobs-low-web") is Queue.LOW


def test_a_declaration_for_producers_names_the_place_too() -> None:
    declared = declare("card:declared", Nothing, runs_on=WEB, queue=Queue.LOW)
    assert declared.place == WEB
    assert lane_name("jobs", declared.queue, declared.type) == "jobs-low-web"
    with pytest.raises(DeclarationError, match="memory_mb: it belongs to Lambda 'web'"):
        declare("card:declared", Nothing, runs_on=WEB, memory_mb=512)


def test_a_drained_lane_follows_those_of_the_place() -> None:
    place = Lambda("web", drains=("card:post",))
    send = made("card:send", place, aliases=["card:post"], also=[Queue.LOW])
    shared, drained = ["jobs-default-web", "jobs-low-web"], ["jobs-default-card-post", "jobs-low-card-post"]
    assert lanes_of("jobs", send) == lanes_of("jobs", send, ["card:post"]) == [*shared, *drained]
    assert lanes_of("jobs", send, ["card:send"]) == shared


def test_what_a_process_declares_counts_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLACES, encode_places({"web": [["card:list"], ["card:send", "card:post"]]}))
    assert (home_of("card:post"), home_of("card:list"), home_of("card:other")) == ("web", "web", "card-other")
    made("card:list", None)
    made("card:send", Lambda("mail"), aliases=["card:post"])
    assert (home_of("card:post"), home_of("card:list")) == ("mail", "card-list")


def test_a_later_declaration_moves_the_lane() -> None:
    assert lane_name("jobs", Queue.LOW, "card:list") == "jobs-low-card-list"
    set_home(["card:list"], "web")
    assert lane_name("jobs", Queue.LOW, "card:list") == "jobs-low-web"
    set_home(["card:list"], None)
    assert lane_name("jobs", Queue.LOW, "card:list") == "jobs-low-card-list"


def test_a_process_that_runs_on_uses_the_places_of_a_later_deploy() -> None:
    """The router of ``joblane dev`` declares no task."""
    assert lane_name("jobs", Queue.LOW, "card:list") == "jobs-low-card-list"
    use_places(encode_places({"web": [["card:list"]]}))
    assert lane_name("jobs", Queue.LOW, "card:list") == "jobs-low-web"
    use_places("")
    assert lane_name("jobs", Queue.LOW, "card:list") == "jobs-low-card-list"


# --- The variable --------------------------------------------------------------------------------------------------


def test_the_text_has_the_types_of_each_place_and_all_former_names() -> None:
    text = places_text(
        [
            made("card:list"),
            made("card:send", aliases=["card:post"]),
            made("card:print", Lambda("slow")),
            made("card:own", None, aliases=["card:mine"]),
            made("card:plain", None),
        ]
    )
    assert text is not None
    assert types_at("web", text) == {"card:list": "card:list", "card:post": "card:send", "card:send": "card:send"}
    assert types_at("slow", text) == {"card:print": "card:print"}
    assert types_at("other", text) == types_at("web", "") == {}
    assert aliases_in(text) == {"card:post": "card:send", "card:mine": "card:own"}
    use_places(text)
    names_module._homes.clear()
    lane_name.cache_clear()
    found = [lane_name("jobs", Queue.LOW, type_) for type_ in ("card:post", "card:print", "card:mine", "card:plain")]
    assert found == ["jobs-low-web", "jobs-low-slow", "jobs-low-card-mine", "jobs-low-card-plain"]


def test_a_project_without_places_has_no_text() -> None:
    assert places_text([]) is None
    assert places_text([made("card:list", None), made("card:own", None, aliases=["card:mine"])]) is None


def many(number: int) -> list[str]:
    subjects = ["account", "invoice", "customer", "shipment", "subscription", "catalogue", "payment", "report"]
    verbs = ["create", "update", "delete", "export", "import", "archive", "notify", "reconcile", "refresh", "validate"]
    return [f"{subjects[n % 8]}:{verbs[n // 8 % 10]}_{'abc'[n // 80 % 3]}" for n in range(number)]


@pytest.mark.parametrize("places", [1, 5])
def test_the_text_of_240_types_takes_less_than_a_kilobyte(places: int) -> None:
    types = many(240)
    assert len(set(types)) == 240
    text = encode_places({f"place{n}": [[type_] for type_ in types[n::places]] for n in range(places)})
    assert len(text) < 1000
    assert sum(len(types_at(f"place{n}", text)) for n in range(places)) == 240


def test_the_text_does_not_depend_on_the_order_of_the_declarations() -> None:
    types = many(20)
    assert encode_places({"a": [[type_] for type_ in types], "b": [["x:y"]]}) == encode_places(
        {"b": [["x:y"]], "a": [[type_] for type_ in reversed(types)]}
    )


def test_a_plain_task_imports_nothing_of_places() -> None:
    program = (
        "import json, sys; from joblane.worker import worker; from joblane.worker.of_type import worker_of;"
        "from joblane import task; print(json.dumps([name for name in sys.modules if name.startswith('joblane.')]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    of_places = ("tasks.place", "tasks.places", "worker.group", "worker.parking", "worker.router")
    assert not {f"joblane.{name}" for name in of_places} & set(loaded)
