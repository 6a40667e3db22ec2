"""URLs in results of every shape: found where they stand, and replaced there and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.archive.urls import MOST_FILES, find_urls, replace_urls
from app.targets import LONGEST_SOURCE

CDN: Final = "https://cdn.example/files"

URLS: Final = st.from_regex(re.compile(r"https?://[a-z]{1,5}\.example(:[1-9]{1,4})?/[a-z0-9]{0,5}"), fullmatch=True)
TEXTS: Final = st.text(max_size=10) | URLS.map(lambda url: f"see {url}")
RESULTS: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | URLS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS | URLS, inner, max_size=5),
    max_leaves=30,
)


def strings(value: Any, path: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], str]]:
    """Every string with its place, in the order of the document: what the walk is compared to."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict | list):
        for place, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from strings(inner, (*path, place))


def nested(depth: int, innermost: Any) -> Any:
    result = innermost
    for level in range(depth):
        result = [result] if level % 2 else {"deeper": result}
    return result


@pytest.mark.parametrize(
    ("result", "urls"),
    [
        ({"images": ["https://a.example/1", "https://a.example/2"]}, ["https://a.example/1", "https://a.example/2"]),
        (
            {"images": ["https://a.example/1"], "gridUrl": "https://a.example/0"},
            ["https://a.example/1", "https://a.example/0"],
        ),
        ({"videoUrl": "https://a.example/v.mp4"}, ["https://a.example/v.mp4"]),
        ({"videos": [{"url": "https://a.example/v", "seed": 1}]}, ["https://a.example/v"]),
        (
            {
                "tracks": [
                    {"id": "1", "audioUrl": "https://a.example/t", "title": "x", "imageUrl": "http://a.example/c"}
                ]
            },
            ["https://a.example/t", "http://a.example/c"],
        ),
        (
            ["https://a.example/2", ["https://a.example/1"], "https://a.example/2"],
            ["https://a.example/2", "https://a.example/1"],
        ),
        ("https://a.example/1", ["https://a.example/1"]),
        ({"https://a.example/key": None}, []),
        ({}, []),
        (None, []),
        (1.5, []),
    ],
)
def test_urls_are_found_in_the_order_of_the_document_each_once(result: Any, urls: list[str]) -> None:
    assert find_urls(result) == urls


@pytest.mark.parametrize(
    "url",
    [
        f"{CDN}/1.png",
        "http://cdn.example",
        "HTTPS://CDN.EXAMPLE/1.PNG",
        "https://cdn.example?X-Amz-Signature=a%2Fb&x=y",
        "https://cdn.example:8443/1.png#t=3",
        "https://[2606:4700::1111]/1.png",
        "https://user:password@cdn.example/1.png",
        "https://cdn.example/ä 1.png".replace(" ", "%20"),
        "https://cdn.example/" + "x" * (LONGEST_SOURCE - 20),
    ],
)
def test_a_string_that_is_a_url_is_found(url: str) -> None:
    assert find_urls([url]) == [url]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cdn.example/1.png",
        "/1.png",
        "//cdn.example/1.png",
        "ftp://cdn.example/1.png",
        "file:///etc/passwd",
        "data:image/png;base64,iVBORw0KGgo=",
        "javascript:alert(1)//https://cdn.example",
        "see https://cdn.example/1.png",
        "https://cdn.example/1.png and more",
        "https://cdn.example/1.png\n",
        " https://cdn.example/1.png",
        "https://cdn.example/\x001.png",
        "https://cdn.example/\u00a01.png",
        "https://",
        "https:///1.png",
        "https://?x",
        "https://#x",
        "https://:443/1.png",
        "https://@/1.png",
        "https://user:password@/1.png",
        "https:/cdn.example/1.png",
        "https://cdn.example/" + "x" * (LONGEST_SOURCE - 19),
    ],
)
def test_a_string_that_is_no_url_as_a_whole_is_left_alone(text: str) -> None:
    assert find_urls([text]) == []


def test_what_is_more_than_is_kept_is_found_all_the_same() -> None:
    urls = [f"{CDN}/{number}" for number in range(MOST_FILES + 50)]
    assert find_urls({"images": [*urls[:10], *urls]}) == urls


def test_a_result_may_be_nested_to_any_depth() -> None:
    url, other = f"{CDN}/1", f"{CDN}/2"
    deep = nested(10_000, [url, "text"])
    assert find_urls(deep) == [url]
    replaced = replace_urls(deep, {url: other})
    assert (find_urls(replaced), find_urls(deep)) == ([other], [url])


@given(RESULTS)
def test_what_is_found_are_the_strings_that_are_urls(result: Any) -> None:
    expected = [text for _, text in strings(result) if re.match(r"https?://[a-z]", text)]
    assert find_urls(result) == list(dict.fromkeys(expected))


@given(RESULTS, st.data())
def test_replaced_urls_stand_in_the_same_places_and_nothing_else_differs(result: Any, data: st.DataObject) -> None:
    before = repr(result)
    found = data.draw(st.sets(st.sampled_from(find_urls(result) or [CDN])))
    others = {url: f"https://archive.example/{number}" for number, url in enumerate(found)}
    replaced = replace_urls(result, others)
    assert list(strings(replaced)) == [(path, others.get(text, text)) for path, text in strings(result)]
    assert repr(replace_urls(replaced, {other: url for url, other in others.items()})) == before
    assert find_urls(replaced) == [others.get(url, url) for url in find_urls(result)]
    assert repr(result) == before


@given(RESULTS)
def test_where_nothing_is_replaced_the_copy_is_equal_and_shares_nothing(result: Any) -> None:
    copy = replace_urls(result, {})
    assert repr(copy) == repr(result)
    assert not isinstance(result, dict | list) or copy is not result
