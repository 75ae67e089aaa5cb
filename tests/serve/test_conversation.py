from __future__ import annotations

from serve.conversation import routing_text, whole_text
from serve.schemas import ContentPart, Message


def turns(*pairs: tuple[str, str]) -> list[Message]:
    return [Message.model_validate({"role": role, "content": text}) for role, text in pairs]


def test_one_user_turn_reads_as_the_bare_prompt():
    assert routing_text(turns(("user", "What is 2 + 2?")), 256) == "What is 2 + 2?"


def test_a_short_conversation_is_read_whole_and_in_order():
    messages = turns(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?"))
    assert routing_text(messages, 256) == "Be brief.\n\nHi\n\nHello\n\nWhy?"


def test_a_long_history_never_hides_the_latest_user_turn():
    messages = turns(("user", "old " * 500), ("assistant", "answer " * 500), ("user", "Now translate it."))
    assert routing_text(messages, 64) == "Now translate it."


def test_newer_turns_are_kept_before_older_ones_and_instructions():
    messages = turns(
        ("system", "s" * 100), ("user", "first " * 10), ("assistant", "middle " * 10), ("user", "last")
    )
    assert routing_text(messages, 20) == "middle " * 9 + "middle\n\nlast"


def test_a_latest_turn_beyond_the_window_is_left_to_the_encoder_to_cut():
    text = "long " * 1_000
    assert routing_text(turns(("user", "hi"), ("user", text)), 64) == text.strip()


def test_a_trailing_tool_result_does_not_replace_the_users_question():
    messages = turns(("user", "What is the weather?"), ("assistant", ""), ("tool", "x" * 5_000))
    assert routing_text(messages, 64) == "What is the weather?"


def test_a_conversation_without_a_user_turn_reads_its_last_text():
    assert routing_text(turns(("system", "s" * 1_000), ("assistant", "hello")), 16) == "hello"


def test_only_text_parts_are_read():
    parts = [ContentPart(type="text", text="What is this?"), ContentPart(type="image_url")]
    assert routing_text([Message(role="user", content=parts)], 64) == "What is this?"


def test_the_whole_text_counts_every_turn():
    assert whole_text(turns(("system", "a"), ("user", "b"), ("assistant", "c"))) == "a\n\nb\n\nc"
