"""ci/templates.py RENDER FOLDER: chat templates beside `transformers`.

RENDER is our example program `render`; FOLDER has templates (`*.jinja`). Each is rendered over conversations with and without system
messages, tools, tool calls, parts, reasoning, by both. Where `transformers` gives a text ours must be the same; where it refuses, ours
must. The expressions of EXPRESSIONS are compared in the same way. Called by ci/templates.sh, which installs what it needs.
"""

import datetime
import itertools
import json
import subprocess
import sys
from pathlib import Path

from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import _normalize_chat_messages, render_jinja_template

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "warmth",
            "description": "The temperature in a city, \"now\" or then – <in> degrees.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where."},
                    "unit": {"type": "string", "enum": ["celsius", "kelvin"], "default": "kelvin"},
                    "days": {"type": "array", "items": {"type": "integer"}},
                    "exact": {"type": "boolean"},
                },
                "required": ["city"],
            },
            "return": {"type": "number", "description": "Degrees."},
        },
    },
    {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}},
]


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, identity, **arguments):
    return {"type": "function", "id": identity, "function": {"name": name, "arguments": arguments}}


HELLO = said("user", "Hi there!\n\nWho's  <you>? é 😀 ")
CALLS = [
    HELLO,
    said("assistant", "", tool_calls=[call("warmth", "abcdef123", city="Århus", days=[1, 2], exact=True, high=1.5, low=None)]),
    said("tool", "{\"degrees\": 12.0}", name="warmth", tool_call_id="abcdef123"),
    said("assistant", "It is 12°."),
    said("user", "Thanks."),
]
CONVERSATIONS = {
    "user": [HELLO],
    "system": [said("system", " Be brief.\n"), HELLO],
    "turns": [said("system", "Be brief."), HELLO, said("assistant", " A model. "), said("user", "And\nyou?")],
    "ends with the assistant": [HELLO, said("assistant", "A model."), said("user", "x"), said("assistant", "y ")],
    "thinks": [HELLO, said("assistant", "<think>\nHm.\n</think>\n\nA model."), said("user", "Really?")],
    "reasons": [HELLO, said("assistant", "A model.", reasoning_content="Hm.\nWell."), said("user", "Really?")],
    "calls a tool": CALLS[:3],
    "has called a tool": [said("system", "Be brief."), *CALLS],
    "calls and says": [HELLO, said("assistant", "I look.", tool_calls=[call("now", "xyz000111")]), said("tool", "12:00", tool_call_id="xyz000111")],
    "calls two tools": [
        HELLO,
        said("assistant", None, tool_calls=[call("warmth", "a00000001", city="Oslo"), call("now", "a00000002")]),
        said("tool", "1", name="warmth", tool_call_id="a00000001"),
        said("tool", "2", name="now", tool_call_id="a00000002"),
    ],
    "parts": [said("system", [{"type": "text", "text": "Be brief."}]), said("user", [{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}])],
    "image": [said("user", [{"type": "image"}, {"type": "text", "text": "What is this?"}])],
    "wrong order": [said("assistant", "First!"), said("assistant", "Second!"), said("system", "Late.")],
    "unknown role": [HELLO, said("stranger", "Boo.")],
    "developer": [said("developer", "Be brief."), HELLO],
}
VARIABLES = [
    {},
    {"enable_thinking": True},
    {"enable_thinking": False},
    {"documents": [{"title": "T", "text": "Some text.", "doc_id": 1}]},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

# Single templates. What Python and Jinja2 make of each must be what we make of it.
EXPRESSIONS = Path(__file__).with_name("templates.txt")


class Clock(datetime.datetime):
    """The day that our example has."""

    @classmethod
    def now(cls):
        return cls(2026, 3, 5)


def theirs(template, messages, variables, ask):
    try:
        messages = _normalize_chat_messages(messages)
        [text], _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=ask, **variables)
        return {"text": text}
    except Exception as error:  # noqa: BLE001 whatever it is, it refuses
        return {"error": f"{type(error).__name__}: {error}"}


def requests(folder):
    for path in sorted(folder.glob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        options = itertools.product(CONVERSATIONS.items(), VARIABLES, (None, TOOLS), (True, False))
        for (name, messages), variables, tools, ask in options:
            what = f"{path.name}, {name}, {', '.join(variables) or 'plain'}{', tools' if tools else ''}, {'' if ask else 'not '}asked"
            variables = {**TOKENS, **variables} | ({"tools": tools} if tools else {})
            yield what, {"template": template, "messages": messages, "variables": variables, "ask": ask}
    variables = {"xs": [3, 1, 2], "d": {"b": 1, "A": [2.5, None, True], "c": {"x": "y"}}, "s": "Hello, wörld it's \"me\"\n", "people": [
        {"name": "Bo", "age": 3, "tags": ["x"]}, {"name": "al", "age": 20}, {"name": "Cy", "age": 3, "tags": []}]}
    for line in EXPRESSIONS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("# "):
            yield line, {"template": line.replace("⏎", "\n"), "messages": [HELLO], "variables": variables, "ask": True}


def main():
    render, folder = sys.argv[1:]
    chat_template_utils.datetime = Clock
    asked = list(requests(Path(folder)))
    lines = "".join(json.dumps(request) + "\n" for _, request in asked)
    answers = subprocess.run([render], input=lines, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(answers) == len(asked), f"{len(answers)} answers to {len(asked)} requests"
    texts = wrong = 0
    shown = set()
    for (what, request), answer in zip(asked, answers):
        expected = theirs(request["template"], request["messages"], request["variables"], request["ask"])
        found = json.loads(answer)
        texts += "text" in expected
        if expected.keys() != found.keys() or expected.get("text") != found.get("text"):
            wrong += 1
            # One of each template says enough.
            if (template := what.split(",")[0]) not in shown:
                shown.add(template)
                print(f"{what}\n  transformers: {json.dumps(expected, ensure_ascii=False)[:600]}\n  ours:         {json.dumps(found, ensure_ascii=False)[:600]}")
    print(f"{len(asked)} renderings, {texts} texts, {len(asked) - texts} refusals; {wrong} are not what transformers makes")
    sys.exit(wrong > 0)


main()
