"""HTML as trees of the standard library's `xml.etree`, which escapes what it writes."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

Content = Element | str


def element(tag: str, *content: Content, **attributes: str) -> Element:
    """The element `tag` around `content`. `class_` and `data_x` are the attributes `class` and `data-x`."""
    made = Element(tag, {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()})
    for item in content:
        if isinstance(item, Element):
            made.append(item)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + item
        else:
            made.text = (made.text or "") + item
    return made


def table(headings: Iterable[str], rows: Iterable[Iterable[Content]], **attributes: str) -> Element:
    """A table; all columns but the first and the last are of numbers."""
    head = element("tr", *(element("th", heading, scope="col") for heading in headings))
    body = (element("tr", *(element("td", cell) for cell in row)) for row in rows)
    return element("table", element("thead", head), element("tbody", *body), **attributes)


def html_text(root: Element) -> str:
    """`root` as HTML text. What is in `script` and `style` is written as it stands."""
    return tostring(root, encoding="unicode", method="html")
