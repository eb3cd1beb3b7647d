"""Which templates do nothing with contents but print them."""

import jinja2
import pytest

from mads_ray.capture.prompts.opaque import only_prints_contents

LOOP = "{% for m in messages %}"
END = "{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        LOOP + "{{ m.role + m['content'] | trim ~ 'x' }}" + END,
        LOOP + "{% if m.role == 'user' %}{{ m.content }}{% endif %}" + END,
        "{% if messages[0].role != 'system' %}x{% endif %}" + LOOP + "{{ m.content }}" + END,
        "{{ messages[0]['content'] }}",
    ],
)
def test_these_only_print(source):
    assert only_prints_contents(jinja2.Environment().parse(source))


@pytest.mark.parametrize(
    "source",
    [
        LOOP + "{{ m.content.split('</think>')[-1] }}" + END,
        LOOP + "{{ m.content | tojson }}" + END,
        LOOP + "{{ m.content | trim('x') }}" + END,
        LOOP + "{{ m | tojson }}" + END,
        LOOP + "{% if m.content %}x{% endif %}" + END,
        LOOP + "{{ 'x' if 'a' in m.content else m.content }}" + END,
        LOOP + "{% set c = m.content %}{{ c }}" + END,
        LOOP + "{% set n = m %}{{ n.content }}" + END,
        LOOP + "{{ m[key] }}" + END,
        LOOP + "{{ loop.previtem.content | length }}" + END,
        LOOP + "{% filter upper %}{{ m.content }}{% endfilter %}" + END,
        LOOP + "{% set c %}{{ m.content }}{% endset %}{{ c | length }}" + END,
        "{% for m in messages if m.content %}{{ m.content }}" + END,
        "{% for m in messages[1:] %}{{ m.content }}" + END,
        "{% for m in messages | reverse %}{{ m.content }}" + END,
        "{% set messages = messages[1:] %}" + LOOP + "{{ m.content }}" + END,
        "{% macro f(x) %}{{ x.content }}{% endmacro %}" + LOOP + "{{ f(m) }}" + END,
        LOOP + "{% for k, v in m.items() %}{{ v }}" + END + END,
        "{% for a, b in messages %}{{ a }}" + END,
        "{{ messages | length }}",
        "{{ (messages[0].content ~ 'x') | upper }}",
    ],
)
def test_these_may_look_into_them(source):
    assert not only_prints_contents(jinja2.Environment().parse(source))
