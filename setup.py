"""What pyproject.toml cannot say: the page that a package index shows.

It is README.md, with links that work there. A link to a file of the repository becomes one
into the `Source` of `[project.urls]`, where there is a `Source`; else its text stays, without
a link, and a picture goes.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).resolve().parent
# An image, or a link, to something that is neither an address nor a heading of the page.
RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]+)\)")


def long_description(readme, source=None):
    """Returns the text of a README.md as a package index can show it.

    Args:
        readme: the text.
        source: address of the repository, with a folder for every tag. Defaults to `None`:
            there is none.
    """

    def absolute(link):
        image, text, path = link.groups()
        if source is None:
            return "" if image else text
        kind = "raw" if image else "blob"
        return f"{image}[{text}]({source.rstrip('/')}/{kind}/main/{path})"

    return RELATIVE.sub(absolute, readme)


def source():
    found = re.search(r'^Source = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    return found and found[1]


if __name__ == "__main__":
    setuptools.setup(
        long_description=long_description((ROOT / "README.md").read_text("utf-8"), source()),
        long_description_content_type="text/markdown",
    )
