"""Chat templates of strangers: each ends in a sentence, none of them runs in this process, and the next one works."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf.models.template_process import LONGEST, MEMORY, TemplateRefused, TemplateRenderer

VALUES: dict[str, Any] = {"messages": [{"role": "user", "content": "Why?"}], "add_generation_prompt": True}
PLAIN = "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"
LONG = "{% for i in range(100000) %}{% for j in range(100000) %}{% for k in range(100000) %}"
# The processor's time that a template without end gets here; it never ends, so no machine is too slow for this.
SHORT_SECONDS = 0.5


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    """A process of its own for this module."""
    made = TemplateRenderer()
    yield made
    made.close()


@pytest.fixture
def hasty() -> Iterator[TemplateRenderer]:
    """One that stops templates soon."""
    made = TemplateRenderer(seconds=SHORT_SECONDS)
    yield made
    made.close()


def refusal(renderer: TemplateRenderer, template: str, values: dict[str, Any] | None = None) -> str:
    """What is said of a template; after it another one is rendered as ever."""
    with pytest.raises(TemplateRefused) as raised:
        renderer.render(template, values or VALUES)
    assert renderer.render(PLAIN, VALUES) == "[user]Why?"
    assert str(raised.value) == f"The model's chat template refuses a conversation: {raised.value.reason}"
    assert "\n" not in raised.value.reason
    return raised.value.reason


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Only users\\n may speak') }}", "Only users may speak"),
        ("{{ raise_exception('x' * 100000) }}", "xxx"),
        (r"{{ raise_exception('\x1b[2J') }}", "⟨U+001B⟩[2J"),
        ("{{ raise_exception('') }}", "without a word"),
        ("{{ messages[7].content.lower() }}", "list object has no element 7"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{{ [1, 2].pop(5) }}", "unsafe"),
        ("{{ 'a'.encode().decode('nothing') }}", "LookupError"),
        ("{{ 1 + 'a' }}", "TypeError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ range(10 ** 9) }}", "OverflowError"),
        ("{{ ('%d' % 'a') }}", "TypeError"),
        ("{{ 'a'.index('b') }}", "ValueError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% macro again(x) %}{{ again(x) }}{% endmacro %}{{ again(1) }}", "RecursionError"),
        ("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "RecursionError"),
        ("{% include 'passwd' %}", "TypeError"),
        ("{% for %}", "it is no valid template"),
        ("{{ unknown | nothing }}", "it is no valid template"),
        ("{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}", "RecursionError"),
        ("{% if 1 %}" * 3_000 + "{% endif %}" * 3_000, "RecursionError"),
    ],
)
def test_whatever_a_template_raises_is_a_sentence(renderer: TemplateRenderer, template: str, reason: str) -> None:
    process = renderer.render(PLAIN, VALUES) and renderer.process
    assert reason in refusal(renderer, template)
    assert len(refusal(renderer, template)) < 400
    assert renderer.process is process, "nothing had to be stopped"


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ 'a' | center(10 ** 10) }}",
        "{{ '%10000000000d' | format(1) }}",
        "{{ '{:>10000000000}'.format(1) }}",
        "{{ range(100000) | join('a' * 10 ** 6) }}",
        "{{ messages | tojson(indent=10 ** 9) }}",
        "{{ [1] | batch(10 ** 10, 'x') | list }}",
    ],
)
def test_a_template_that_wants_all_memory_is_stopped(renderer: TemplateRenderer, template: str) -> None:
    assert refusal(renderer, template) == f"it needs more than {MEMORY >> 20} MB of memory."


@pytest.mark.parametrize(
    "template",
    [
        LONG + "{% endfor %}{% endfor %}{% endfor %}",
        "{% macro two(n) %}{% if n %}{{ two(n - 1) }}{{ two(n - 1) }}{% endif %}{% endmacro %}{{ two(60) }}",
        "{{ (3 ** (10 ** 9)) % 7 }}",
    ],
    ids=["loops", "macros", "one operation in C"],
)
def test_a_template_without_end_is_stopped_once_and_not_run_again(hasty: TemplateRenderer, template: str) -> None:
    reason = refusal(hasty, template)
    assert reason == f"it did not end within {SHORT_SECONDS} seconds of processor time."
    process = hasty.process
    assert refusal(hasty, template, {"messages": []}) == reason
    assert hasty.process is process, "it would have to be stopped again"


def test_time_counts_for_each_conversation_alone(hasty: TemplateRenderer) -> None:
    """One process renders many; what they take together is no matter."""
    work = "{% for i in range(100000) %}{{ i }}{% endfor %}"
    first = hasty.render(work, VALUES)
    process = hasty.process
    assert process is not None

    def spent() -> float:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    while spent() < 2 * SHORT_SECONDS:
        assert hasty.render(work, VALUES) == first
    assert hasty.process is process


def test_a_text_that_is_too_long_is_refused_and_others_of_the_template_are_not(renderer: TemplateRenderer) -> None:
    template = "{{ 'ü' * n }}"
    assert refusal(renderer, template, {"n": LONGEST + 1}) == f"it makes over {LONGEST:,} characters."
    assert renderer.render(template, {"n": 2}) == "üü"
    assert len(renderer.render(r"{{ '🙂' * n }}{{ '\0' * n }}", {"n": LONGEST // 2})) == LONGEST


def test_half_a_character_is_no_text(renderer: TemplateRenderer) -> None:
    """No tokenizer takes it, and no page or file."""
    assert refusal(renderer, r"{{ 'a\ud800' }}") == "it writes half a character."
    assert refusal(renderer, r"{{ raise_exception('a\ud800') }}") == "a⟨U+D800⟩"


def test_texts_come_back_as_they_went(renderer: TemplateRenderer) -> None:
    text = 'a \x00 \u2028 🙂 \\ " {{ x }} </s> \r\n'
    assert renderer.render("{{ messages[0] }}", {"messages": [text]}) == text


def test_a_process_that_was_killed_is_replaced_and_no_template_blamed(renderer: TemplateRenderer) -> None:
    renderer.render(PLAIN, VALUES)
    assert renderer.process is not None
    renderer.process.kill()
    renderer.process.wait()
    assert renderer.render(PLAIN, VALUES) == "[user]Why?"


def test_the_process_serves_on_where_all_of_a_worker_are_told_to_end(renderer: TemplateRenderer) -> None:
    """The worker saves what it has, which may take a conversation; the process goes with it."""
    renderer.render(PLAIN, VALUES)
    process = renderer.process
    assert process is not None
    process.terminate()
    assert renderer.render(PLAIN, VALUES) == "[user]Why?"
    assert renderer.process is process


def test_a_template_that_ends_its_process_is_refused(
    renderer: TemplateRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a crash of the interpreter would: the process is gone whenever this template is asked for."""
    renderer.close()
    with monkeypatch.context() as patch:
        patch.setattr("sys.executable", "/bin/false")
        with pytest.raises(TemplateRefused, match="it ends the process that runs it"):
            renderer.render("deadly", VALUES)
    assert refusal(renderer, "deadly") == "it ends the process that runs it."


def test_threads_get_their_own_texts(renderer: TemplateRenderer) -> None:
    found: dict[int, list[str]] = {}

    def ask(number: int) -> None:
        found[number] = [renderer.render("{{ x }}", {"x": number}) for _ in range(50)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [str(number)] * 50 for number in range(8)}


def test_the_process_has_no_secrets_and_goes_with_its_owner(
    renderer: TemplateRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    other = TemplateRenderer()
    assert other.render(PLAIN, VALUES)
    process = other.process
    assert process is not None
    assert b"HF_TOKEN" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    assert other.connection is not None
    other.connection.close()
    process.wait()  # nobody is there any more who could ask
    other.close()
