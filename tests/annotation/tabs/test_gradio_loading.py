"""What Gradio is spared, which no page misses. That it opens no type stub: tests/test_architecture.py."""

from __future__ import annotations

import gradio as gr
from gradio import utils
from gradio.state_holder import SessionState


def test_pages_that_are_not_served_get_no_application_and_an_opened_one_no_description_of_its_components() -> None:
    with gr.Blocks() as pages:
        field = gr.Textbox("first")
    assert pages.app is None
    page, another = SessionState(pages), SessionState(pages)
    assert page.config_values == {}
    assert page[field._id] is field
    page[field._id] = changed = gr.Textbox("second", render=False)
    page._update_value_in_config(field._id, "third")
    assert page.config_values[field._id]["props"]["value"] == "third"
    assert (page[field._id], another[field._id], another.config_values) == (changed, field, {})


def test_a_copy_of_a_page_has_nothing_in_common_with_it_that_could_be_changed() -> None:
    held = gr.Blocks
    page = {"a": [1, {"b": "c"}], "d": ({"e": None},), "f": held, "g": {2.5}}
    copied = utils.safe_deepcopy(page)
    assert copied == page
    copied["a"][1]["b"], copied["d"][0]["e"] = "x", "x"
    copied["g"].add(1)
    assert page == {"a": [1, {"b": "c"}], "d": ({"e": None},), "f": held, "g": {2.5}}
    assert copied["f"] is held
