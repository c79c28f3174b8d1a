"""Every error and every warning says what, what of, and what to do."""

import pathlib
import re

import messages
import pytest

ALL = messages.messages()
SAID = [m for m in ALL if m.text is not None]
# Methods of classes that are nobody's to subclass but the package's own.
INTERNAL = {"Rows", "Solver", "CellBlock", "CompositeBlock", "KnowsSizes", "StepsTogether"}
# Keras's own words, as its `train_step` has them.
KERAS = "The model does not have any trainable weights."


def ids(found):
    return [f"{m.file}:{m.method}:{m.line}" for m in found]


def test_the_page_of_messages_is_as_the_source_has_them():
    path = pathlib.Path(__file__).resolve().parents[1] / "docs" / "messages.md"
    assert path.read_text() == messages.page()


def test_none_is_bare():
    bare = [m for m in ALL if m.text is None]
    assert {m.kind for m in bare} == {"NotImplementedError"}
    assert {m.method.split(".")[0] for m in bare} <= INTERNAL


@pytest.mark.parametrize("message", SAID, ids=ids(SAID))
def test_it_is_a_sentence_and_may_end_with_a_value(message):
    # A name, of a class or an argument, is written as it is.
    first = message.text.split()[0]
    assert first[0].isupper() or first[0] in "`{" or "=" in first or "_" in first
    # `Received: name={value!r} (of type ...)` has no full stop, as in Keras.
    received = message.text.split("Received: ")[1:]
    assert message.text.endswith(".") or (received and message.text[-1] in "})")
    assert "  " not in message.text


@pytest.mark.parametrize("message", SAID, ids=ids(SAID))
def test_it_names_an_argument_with_its_value_or_a_way_out(message):
    text = message.text
    if text == KERAS:
        return
    argument = re.match(r"Argument `(\w+)`", text)
    if argument:
        # The value that was given, by the argument's name.
        assert re.search(rf"\b{argument[1]}=\{{", text)
    # What to write, or to call, in code or as `name=value`.
    code = "`" in text or re.search(r"\w=[\w'\"{]", text)
    assert code or "make tau smaller" in text or "needs nothing of you" in text


@pytest.mark.parametrize("message", SAID, ids=ids(SAID))
def test_what_is_filled_in_is_told_from_the_words(message):
    """A value is shown as Python writes it: a string in quotes, an empty one too."""
    source = (messages.PACKAGE / message.file).read_text().splitlines()
    raised = "\n".join(source[message.line - 1 : message.line + 12])
    for value in re.findall(r"\b\w+=\{([^}]+)\}", message.text):
        assert f"{{{value}!r}}" in raised
