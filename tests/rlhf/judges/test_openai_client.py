"""The endpoint client against a real chat server on loopback with the tiny model behind it, sound and in trouble."""

from __future__ import annotations

import json
import logging
import socket
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from annotation.records import Message, UserError
from rlhf.judges import openai_client
from rlhf.judges.judge_settings import EndpointSettings
from rlhf.judges.openai_client import (
    Endpoint,
    EndpointError,
    Failure,
    Reply,
    RequestsStopped,
    settings_of,
)
from rlhf.judges.rubrics import DEFAULT, messages_for
from rlhf.judges.verdicts import parse_verdict
from tests.fakes.chat_server import ChatModel, ChatServer, serving
from tests.machine_fixtures import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.slow

KEY = "sk-loopback-7hQ2vN9xLw3RtZ8k"
VARIABLE = "PREFLOOP_JUDGE_KEY"
HELLO: list[Message] = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> ChatModel:
    """The tiny model, loaded once."""
    return ChatModel(tiny_model)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries that do not wait long, and a key in the environment."""
    monkeypatch.setattr(openai_client, "FIRST_WAIT", 0.02)
    monkeypatch.setenv(VARIABLE, KEY)


def settings_for(server: ChatServer, **changes: Any) -> EndpointSettings:
    """Settings that fit a server of a test."""
    sound = EndpointSettings(
        server.address, "tiny", max_tokens=12, timeout_seconds=PATIENCE_SECONDS, retries=2, concurrency=2
    )
    return replace(sound, **changes)


def ask(endpoint: Endpoint, messages: Sequence[Message]) -> Reply:
    """One reply, without the threads in which several are asked for."""
    with endpoint._connected() as client:
        return endpoint._ask(client, messages, endpoint.stopped)


def check(settings: EndpointSettings) -> None:
    """Raises UserError as whoever makes a judge is told."""
    settings_of(vars(settings))


def reason_of(server: ChatServer, **changes: Any) -> Failure:
    """Why a single question has no reply."""
    with pytest.raises(EndpointError) as raised:
        ask(Endpoint(settings_for(server, **changes)), HELLO)
    assert str(raised.value) == raised.value.failure.sentence
    return raised.value.failure


# ------------------------------------------------------------------------------------------------------------ sound
def test_the_models_own_words_come_back_with_their_cost(model: ChatModel) -> None:
    with serving(model, key=KEY) as server:
        asked = Endpoint(settings_for(server, key_variable=VARIABLE))
        reply, again = ask(asked, HELLO), ask(asked, HELLO)
    text, _, prompt_tokens, tokens = model.answer({"messages": HELLO, "max_tokens": 12, "temperature": 0}, ())
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == (text, prompt_tokens, tokens)
    assert reply.text == again.text
    assert 0 < tokens <= 12
    assert reply.seconds > 0
    assert asked.calls == 2
    body = {"model": "tiny", "messages": HELLO, "temperature": 0.0, "max_tokens": 12}
    assert server.bodies == [body, body]


def test_a_verdict_that_the_model_decides_goes_all_the_way(model: ChatModel) -> None:
    """Decoding is guided to the three verdicts; which one it is, the model says."""
    choices = ("Verdict: A", "Verdict: B", "Verdict: tie")
    with serving(model, choices=choices) as server:
        asked = Endpoint(settings_for(server))
        for first in ("Yes.", "No, never <|im_end|>", "Verdict: A"):
            prompt = messages_for(DEFAULT, (), HELLO, first, "Hello!", "line", comparison_id=1)
            reply = ask(asked, prompt)
            assert reply.text in choices
            assert parse_verdict(reply.text) is not None
        expected, *_ = model.answer({"messages": prompt}, choices)
    assert reply.text == expected


def test_many_are_asked_side_by_side_and_each_reply_keeps_its_place(model: ChatModel) -> None:
    prompts: list[list[Message]] = [[{"role": "user", "content": f"Say number {number}."}] for number in range(9)]
    with serving(model, troubles=repeat("crowd 3")) as server:  # nobody is answered before there are three
        asked = Endpoint(settings_for(server, concurrency=3))
        replies = dict(asked.ask_many(iter(prompts)))
    assert server.most_under_way == 3
    assert sorted(replies) == list(range(9))
    for place, prompt in enumerate(prompts):
        text, *_ = model.answer({"messages": prompt, "max_tokens": 12, "temperature": 0}, ())
        reply = replies[place]
        assert isinstance(reply, Reply)
        assert reply.text == text


# ---------------------------------------------------------------------------------------------------------- retries
@pytest.mark.parametrize("trouble", ["429", "408", "409", "500", "503", "529", "hang up"])
def test_what_may_pass_is_tried_again(model: ChatModel, trouble: str) -> None:
    with serving(model, troubles=[trouble, trouble]) as server:
        asked = Endpoint(settings_for(server))
        assert ask(asked, HELLO).text
        assert asked.calls == len(server.bodies) == 3


@pytest.mark.parametrize(
    ("trouble", "reason", "said"),
    [
        ("429", "rate limit", "more often than it allows (429)"),
        ("500", "server error", "failed by itself (500)"),
        ("hang up", "unreachable", "broke off"),
    ],
)
def test_after_all_retries_it_is_said_why(model: ChatModel, trouble: str, reason: str, said: str) -> None:
    with serving(model, troubles=repeat(trouble)) as server:
        failure = reason_of(server, retries=3)
        assert len(server.bodies) == 4
    assert failure.reason == reason
    assert said in failure.sentence


@pytest.mark.parametrize(
    ("trouble", "reason", "said"),
    [
        ("401", "refused", "wants a key"),
        ("403", "refused", "wants a key"),
        ("404", "refused", "the address or the model 'tiny'"),
        ("413", "refused", "too large (413)"),
        ("400", "refused", "fit its context (400)"),
        ("quota", "refused", "no quota left (429)"),
        ("redirect", "refused", "redirect, which is not followed"),
        ("page", "unreadable", "an HTML page"),
        ("nothing", "unreadable", "with nothing"),
        ("huge", "unreadable", "more than 1,000,000 bytes"),
        ("nested", "unreadable", "JSON of another shape"),
        ("packed", "unreadable", "packed, which was not asked for"),
        ('{"error": {"message": "overloaded"}}', "unreadable", "JSON of another shape"),
        ('{"choices": []}', "unreadable", "JSON of another shape"),
        ('{"choices": [{"message": {"role": "assistant"}}]}', "unreadable", "JSON of another shape"),
        ('{"choices": [{"message": {"content": null}}]}', "no verdict", "holds no text"),
        ('{"choices": [{"message": {"content": ["x"]}}]}', "no verdict", "holds no text"),
        ('{"choices": [{"message": {"content": " "}, "finish_reason": "length"}]}', "no verdict", "“Tokens of a reply"),
        ('{"choices": "data: not', "unreadable", "JSON of another shape"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(model: ChatModel, trouble: str, reason: str, said: str) -> None:
    with serving(model, troubles=[trouble]) as server:
        failure = reason_of(server)
        assert len(server.bodies) == 1, "neither repeated nor followed"
    assert failure.reason == reason
    assert said in failure.sentence
    assert "Please sign in" not in failure.sentence


def test_counts_that_can_not_be_are_taken_for_none(model: ChatModel) -> None:
    body = {"choices": [{"message": {"content": "half \ud83d"}}], "usage": {"prompt_tokens": 10**30}}
    with serving(model, troubles=[json.dumps(body), json.dumps({**body, "usage": None})]) as server:
        asked = Endpoint(settings_for(server))
        for reply in (ask(asked, HELLO), ask(asked, HELLO)):
            assert (reply.prompt_tokens, reply.completion_tokens) == (0, 0)
            assert reply.text == "half \ufffd", "what neither a database nor a file can hold is replaced"


def test_a_server_that_asks_for_time_gets_it(model: ChatModel) -> None:
    with serving(model, troubles=["429 after 1"]) as server:
        ask(Endpoint(settings_for(server)), HELLO)
        first, second = server.times
    assert second - first >= 1


def test_a_server_may_give_a_date_or_nonsense_or_ask_for_too_much(
    model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_client, "LONGEST_WAIT", 0.5)
    monkeypatch.setattr(openai_client, "FIRST_WAIT", 0.002)
    waits: list[float] = []
    monkeypatch.setattr(openai_client, "sleep", lambda seconds, stopped: waits.append(seconds))
    past, future = "Wed, 21 Oct 2015 07:28:00 GMT", "Fri, 31 Dec 2100 23:59:59 GMT"
    nonsense = (
        "Fri, 31 Dec 99999999999 23:59:59 GMT",
        "Fri, 31 Dec 2100 23:59:59 +99999999999999999",
        "soon",
        "-5",
        "nan",
    )
    troubles = [f"503 after {when}" for when in (past, future, *nonsense, "9" * 9)]
    with serving(model, troubles=troubles) as server:
        ask(Endpoint(settings_for(server, retries=8)), HELLO)
    most = [0.002 * 2**attempt for attempt in range(8)]  # what it waits by itself
    assert [wait <= own for wait, own in zip(waits, most, strict=True)] == [True, False, *[True] * 5, False]
    assert waits[1] == waits[-1] == 0.5


def test_waits_grow_with_each_attempt_and_differ() -> None:
    for attempt in range(6):
        waits = {openai_client.pause_before(attempt) for _ in range(200)}
        assert len(waits) > 100
        assert 0.01 * 2**attempt <= min(waits) < max(waits) <= 0.02 * 2**attempt


@pytest.mark.parametrize("trouble", ["hang", "trickle"])
def test_a_server_that_does_not_finish_is_given_up(model: ChatModel, trouble: str) -> None:
    with serving(model, troubles=repeat(trouble)) as server:
        failure = reason_of(server, timeout_seconds=1, retries=1)
        wait_until("both calls", lambda: len(server.bodies) == 2)
    assert failure.reason == "timeout"
    assert "within 1 second." in failure.sentence


def test_a_port_on_which_nobody_listens_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening, so that nobody else gets it
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        asked = Endpoint(EndpointSettings(address, "tiny", retries=2))
        with pytest.raises(EndpointError, match=r"can't be reached.*refused") as raised:
            ask(asked, HELLO)
    assert raised.value.failure.reason == "unreachable"
    assert asked.calls == 3


def test_what_newer_models_do_not_take_is_left_out(model: ChatModel) -> None:
    """As OpenAI's reasoning models refuse it, one thing after the other."""
    troubles = ["unsupported max_tokens", "unsupported temperature"]
    with serving(model, troubles=chain(troubles, repeat("unsupported temperature"))) as server:
        asked = Endpoint(settings_for(server))
        assert ask(asked, HELLO).text
        assert ask(asked, HELLO).text
    keys = [sorted(set(body) - {"model", "messages"}) for body in server.bodies]
    newest = ["max_completion_tokens"]
    assert keys == [["max_tokens", "temperature"], ["max_completion_tokens", "temperature"], newest, newest]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("", {}),
        # DeepSeek's and Granite's templates know the second name, Seed-OSS's the third.
        (
            "enable_thinking",
            {"chat_template_kwargs": {"enable_thinking": False, "thinking": False, "thinking_budget": 0}},
        ),
        ("none", {"reasoning_effort": "none"}),
        ("low", {"reasoning_effort": "low"}),
    ],
)
def test_an_endpoint_is_told_not_to_think_as_it_takes_it(model: ChatModel, setting: Any, told: dict[str, Any]) -> None:
    with serving(model) as server:
        assert ask(Endpoint(settings_for(server, no_thinking=setting)), HELLO).text
    (body,) = server.bodies
    assert {name: body[name] for name in ("chat_template_kwargs", "reasoning_effort") if name in body} == told


def test_an_endpoint_that_refuses_to_be_told_so_says_it(model: ChatModel) -> None:
    with serving(model, troubles=repeat("unsupported reasoning_effort")) as server:
        failure = reason_of(server, no_thinking="none")
    assert failure.reason == "refused"
    assert "does not take reasoning_effort: make the judge anew" in failure.sentence
    assert len(server.bodies) == 1, "asking again would be the same"


# --------------------------------------------------------------------------------------------------- budget, stopping
def test_the_budget_counts_every_attempt_and_ends_the_asking(model: ChatModel) -> None:
    """Seven calls: two for the first prompt, one each for the next five; the others are not asked."""
    with serving(model, troubles=["503"]) as server:
        asked = Endpoint(settings_for(server, calls=7, concurrency=1))
        replies = dict(asked.ask_many([HELLO] * 20))
        assert len(server.bodies) == asked.calls == 7
        assert asked.exhausted
        with pytest.raises(RequestsStopped, match="budget of 7 calls"):
            ask(asked, HELLO)
        assert len(server.bodies) == 7
    assert sorted(replies) == list(range(6))
    assert all(isinstance(reply, Reply) for reply in replies.values())


def test_callers_side_by_side_never_pass_the_budget(model: ChatModel) -> None:
    with serving(model, troubles=repeat("503")) as server:
        asked = Endpoint(settings_for(server, calls=25, concurrency=8))
        list(asked.ask_many([HELLO] * 50))
        assert len(server.bodies) == asked.calls == 25


def test_one_failure_does_not_end_the_others(model: ChatModel) -> None:
    with serving(model, troubles=["", "page", "400", ""]) as server:
        asked = Endpoint(settings_for(server, concurrency=1))
        replies = dict(asked.ask_many([HELLO] * 5))
    reasons = [getattr(replies[place], "reason", None) for place in range(5)]
    assert reasons == [None, "unreadable", "refused", None, None]


def test_told_to_stop_it_gives_out_what_is_under_way_and_asks_no_more(model: ChatModel) -> None:
    stop = threading.Event()
    with serving(model, troubles=repeat("slow")) as server:
        asked = Endpoint(settings_for(server), stop.is_set)
        replies = []
        for reply in asked.ask_many([HELLO] * 50):
            replies.append(reply)
            stop.set()
        assert len(replies) == len(server.bodies) <= 4
        with pytest.raises(RequestsStopped, match="told to stop"):
            ask(asked, HELLO)


def test_told_to_stop_it_does_not_wait_for_the_next_attempt(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would be longer than the tests wait."""
    monkeypatch.setattr(openai_client, "LONGEST_WAIT", 9 * PATIENCE_SECONDS)
    with serving(model, troubles=repeat(f"429 after {9 * PATIENCE_SECONDS}")) as server:
        asked = Endpoint(settings_for(server), lambda: len(server.bodies) >= 2)
        assert list(asked.ask_many([HELLO] * 4)) == []
        assert len(server.bodies) == 2


def test_who_stops_listening_leaves_nothing_running(model: ChatModel) -> None:
    with serving(model) as server:
        for _ in Endpoint(settings_for(server)).ask_many([HELLO] * 50):
            break
        assert len(server.bodies) <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("endpoint")]


def test_stopped_is_asked_by_the_asking_thread_only(model: ChatModel) -> None:
    """So that it may look into a database connection of that thread."""
    threads = set()

    def stopped() -> bool:
        threads.add(threading.current_thread())
        return False

    with serving(model, troubles=["503", "503"]) as server:
        list(Endpoint(settings_for(server), stopped).ask_many([HELLO] * 4))
    assert threads == {threading.current_thread()}


# ------------------------------------------------------------------------------------------------------------ secrets
@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Every log line at every level."""
    with caplog.at_level(logging.DEBUG):
        yield caplog


def test_the_key_is_sent_and_is_nowhere_else(
    model: ChatModel, everything_logged: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even where a server sends it back: in its refusal, in the reply, or after breaking off."""
    troubles = ["", "echo", "hang up", "page", "500", "redirect", "mangled", "hang"]
    traces: list[str] = []
    with serving(model, key=KEY, troubles=troubles) as server:
        settings = settings_for(server, key_variable=VARIABLE, retries=0)
        asked = Endpoint(settings)
        replies = [reply for _, reply in asked.ask_many([HELLO] * 2)]
        server.choices = ()
        assert "Your key is Bearer [key]" in {reply.text for reply in replies if isinstance(reply, Reply)}
        impatient = Endpoint(replace(settings, timeout_seconds=1))
        for one in [asked] * 5 + [impatient]:
            with pytest.raises(EndpointError) as raised:
                ask(one, HELLO)
            error: BaseException | None = raised.value
            while error is not None:  # the whole chain, shown or not
                traces += [*traceback.format_exception(error, chain=True), repr(vars(error))]
                error = error.__cause__ or error.__context__
        server.key = "another-key-altogether"
        failure = reason_of(server, key_variable=VARIABLE)
        assert f"refuses the key in {VARIABLE}" in failure.sentence
    held = (settings, vars(settings), asked, vars(asked), replies, failure)
    shown = [*map(repr, held), *traces]
    logged = [record.getMessage() for record in everything_logged.records]
    printed = capfd.readouterr()
    assert not [text for text in (*shown, *logged, printed.out, printed.err) if KEY in text]
    assert not [line for line in logged if "/chat/completions" in line], "addresses are not logged either"


def test_what_is_near_is_asked_past_a_proxy(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key may go unencrypted to what is near, and a proxy would get it on the way."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(model, key=KEY) as server, serving(model) as proxy:
        monkeypatch.setenv("http_proxy", proxy.address)
        reply = ask(Endpoint(settings_for(server, key_variable=VARIABLE, retries=0)), HELLO)
    assert reply.text
    assert proxy.bodies == []


@pytest.mark.parametrize("value", ["", "  ", "sk-with a space", "sk-line\nbreak", "sk-ümlaut", "sk-bell\x07"])
def test_a_key_that_can_not_be_sent_is_refused_without_being_shown(
    model: ChatModel, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with serving(model) as server:
        failure = reason_of(server, key_variable=VARIABLE)
        assert server.bodies == []
    assert failure.reason == "refused"
    assert VARIABLE in failure.sentence
    assert "sk-" not in failure.sentence


def test_a_key_is_read_anew_for_each_call(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(model, key=KEY) as server:
        asked = Endpoint(settings_for(server, key_variable=VARIABLE))
        monkeypatch.setenv(VARIABLE, "sk-an-older-key-12345")
        with pytest.raises(EndpointError, match="refuses the key"):
            ask(asked, HELLO)
        monkeypatch.setenv(VARIABLE, f" {KEY}\n")
        assert ask(asked, HELLO).text


# ----------------------------------------------------------------------------------------------------------- settings
SOUND = EndpointSettings("https://api.example.com/v1", "judge-1", "PREFLOOP_JUDGE_KEY")


@pytest.mark.parametrize(
    "address",
    [
        "https://api.openai.com/v1",
        "https://api.example.com/v1/chat/completions",
        "http://127.0.0.1:8000/v1",
        "http://localhost:11434/v1/",
        "http://[::1]:8000/v1",
        "http://192.168.1.20:8000/v1",
        "http://vllm:8000/v1",
        "https://例え.jp/v1",
    ],
)
def test_sound_addresses_are_taken_and_lead_to_chat_completions(address: str) -> None:
    settings = replace(SOUND, address=address)
    check(settings)
    assert settings.url.endswith("/chat/completions")
    assert settings.url.count("/chat/completions") == 1
    assert "//chat" not in settings.url


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"address": ""}, "needs http:// or https://"),
        ({"address": "api.example.com/v1"}, "needs http:// or https://"),
        ({"address": "ftp://example.com"}, "needs http:// or https://"),
        ({"address": "file:///etc/passwd"}, "needs http:// or https://"),
        ({"address": "https://"}, "needs http:// or https://"),
        ({"address": "https://" + "x" * 500}, "needs http:// or https://"),
        ({"address": "https://example.com:99999/v1"}, "can't be read"),
        ({"address": "https://[::1/v1"}, "can't be read"),
        ({"address": "https://exa\nmple.com/v1"}, "can't be read"),
        ({"address": "https://me:hush@example.com/v1"}, "no name, password, query"),
        ({"address": "https://example.com/v1?key=hush"}, "no name, password, query"),
        ({"address": "https://example.com/v1#hush"}, "no name, password, query"),
        ({"address": "https://example.com/v1 hush"}, "no name, password, query"),
        ({"address": "http://api.example.com/v1"}, "unencrypted"),
        ({"address": "http://8.8.8.8/v1"}, "unencrypted"),
        ({"address": "http://134744072/v1"}, "unencrypted"),
        ({"address": "http://0x08080808/v1"}, "unencrypted"),
        ({"address": "http://01002004010/v1"}, "unencrypted"),
        ({"address": "http://169.254.169.254/v1"}, "unencrypted"),
        ({"address": "http://[::ffff:169.254.169.254]/v1"}, "unencrypted"),
        ({"model": " "}, "Name the model"),
        ({"model": "x" * 201}, "Name the model"),
        ({"key_variable": "HF_TOKEN"}, "begin with PREFLOOP_JUDGE_"),
        ({"key_variable": "PREFLOOP_JUDGE_KEY\n"}, "begin with PREFLOOP_JUDGE_"),
        ({"key_variable": "prefloop_judge_key"}, "begin with PREFLOOP_JUDGE_"),
        ({"key_variable": "MY_OPENAI_API_KEY"}, "begin with PREFLOOP_JUDGE_"),
        ({"key_variable": "sk-hush"}, "never the key"),
        ({"temperature": -0.1}, "'temperature' must be a number from 0 to 2"),
        ({"temperature": float("nan")}, "'temperature' must be a number"),
        ({"max_tokens": 0}, "'max_tokens' must be a whole number from 1 to 100,000"),
        ({"concurrency": 2.5}, "'concurrency' must be a whole number"),
        ({"concurrency": 33}, "from 1 to 32"),
        ({"total_calls": -1}, "'total_calls' must be a whole number from 0 to"),
        ({"timeout_seconds": 0.5}, "'timeout_seconds' must be a number from 1 to 600"),
        ({"timeout_seconds": float("inf")}, "from 1 to 600"),
        ({"retries": True}, "'retries' must be a whole number"),
        ({"calls": "many"}, "'calls' must be a whole number"),
        ({"price_in": -1}, "'price_in' must be a number"),
        ({"no_thinking": "off"}, "'no_thinking' must be"),
    ],
)
def test_settings_that_can_not_work_or_would_leak_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as raised:
        check(replace(SOUND, **changes))
    assert said in str(raised.value)
    assert "hush" not in str(raised.value)
    with pytest.raises(UserError):
        Endpoint(replace(SOUND, **changes))


def test_without_a_key_any_http_address_will_do() -> None:
    check(replace(SOUND, address="http://judge.example.com/v1", key_variable=""))


OPENAI = replace(SOUND, address="https://api.openai.com/v1", key_variable="OPENAI_API_KEY", temperature=1, price_in=3)
PROXY = "https://models.example.com/v1"


def test_openais_key_goes_to_openai_or_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    check(OPENAI)
    check(replace(OPENAI, address="https://eu.api.openai.com/v1"))
    for other in (PROXY, "https://api.openai.com.example.com/v1", "https://notapi.openai.com/v1", "http://10.0.0.1/v1"):
        with pytest.raises(UserError, match=r"is for api\.openai\.com and would go to .*OPENAI_BASE_URL"):
            check(replace(OPENAI, address=other))
        with pytest.raises(UserError, match="would go to"):
            Endpoint(replace(OPENAI, address=other))
    monkeypatch.setenv("OPENAI_BASE_URL", "https://Models.example.com/v1")
    check(replace(OPENAI, address=PROXY))
    check(OPENAI)


def test_another_key_goes_anywhere_unless_the_environment_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    check(replace(SOUND, address=PROXY))
    monkeypatch.setenv(f"{SOUND.key_variable}_HOST", "models.example.com")
    check(replace(SOUND, address=PROXY))
    with pytest.raises(UserError, match=r"is for models\.example\.com and would go to api\.example\.com"):
        check(SOUND)


@pytest.mark.parametrize(
    "said", ["models.example.com", " Models.Example.com:443 ", "https://models.example.com/v1", "//models.example.com"]
)
@pytest.mark.parametrize("settings", [OPENAI, SOUND])
def test_the_environment_names_a_host_or_an_address(
    monkeypatch: pytest.MonkeyPatch, settings: EndpointSettings, said: str
) -> None:
    where = {"OPENAI_API_KEY": "OPENAI_BASE_URL"}.get(settings.key_variable, f"{settings.key_variable}_HOST")
    monkeypatch.setenv(where, said)
    check(replace(settings, address=PROXY))
    with pytest.raises(UserError, match=rf"with {where}=other\.example\.com\."):
        check(replace(settings, address="https://other.example.com/v1"))
    for none in ("http://x:y", "https://", "/v1"):
        monkeypatch.setenv(where, none)
        with pytest.raises(UserError, match=f"{where} in the environment of Prefloop names no host"):
            check(replace(settings, address=PROXY))
    monkeypatch.setenv(where, "http://[x")
    with pytest.raises(UserError, match="would go to"):
        check(replace(settings, address=PROXY))


def test_what_says_where_a_key_goes_is_no_key() -> None:
    with pytest.raises(UserError, match="not end with _HOST"):
        check(replace(SOUND, key_variable=f"{SOUND.key_variable}_HOST"))


def test_settings_of_rows_and_commands_are_read_as_they_are_given() -> None:
    given = {"address": SOUND.address, "model": SOUND.model, "temperature": 0, "price_in": 3}
    assert settings_of(given) == replace(SOUND, key_variable="", temperature=0.0, price_in=3.0)
    with pytest.raises(UserError, match="There is no field 'modell'"):
        settings_of({**given, "modell": "tiny"})
