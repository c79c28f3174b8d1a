"""A hook of MkDocs: pages of the repository that lie elsewhere are pages of the site, too.

Links are written as they work in the repository, from any page to any file. Here a link to
another page of the site becomes one to that page, a picture is taken along, and the text of a
link to any other file stays without the link. A link to nothing is left as it is, for
`mkdocs build --strict` to complain of.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[1]
# {file of the repository: page of the site}
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "repository/changelog.md",
    "CONTRIBUTING.md": "repository/contributing.md",
    "keras_proxprop/README.md": "repository/architecture.md",
    "keras_proxprop/blocks/README.md": "repository/layers.md",
    "examples/APPLICATIONS.md": "repository/applications.md",
    "examples/benchmarks/EVERYDAY.md": "repository/everyday.md",
    "examples/benchmarks/PROFILE.md": "repository/profile.md",
    "examples/benchmarks/RESULTS.md": "repository/benchmarks.md",
    "examples/paper/RESULTS.md": "repository/paper.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)#]+)(#[^)]*)?\)")


def page_of(path):
    """Returns where a file of the repository is in the site, `None` where it is not."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.endswith(".png"):
        return f"pictures/{path}"
    return PAGES.get(path)


def on_files(files, config):
    for path, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text("utf-8")))
    for path in (ROOT / "examples").rglob("*.png"):
        name = path.relative_to(ROOT).as_posix()
        # What programs have written here is none of the repository's.
        if "results" not in path.parts and page_of(name):
            files.append(File.generated(config, page_of(name), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    site = page.file.src_uri
    sources = {there: here for here, there in PAGES.items()}
    folder = posixpath.dirname(sources.get(site, f"docs/{site}"))

    def as_in_the_site(link):
        image, text, target, anchor = link.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        if not (ROOT / path).exists():
            return link[0]
        if (there := page_of(path)) is None:
            return text
        there = posixpath.relpath(there, posixpath.dirname(site) or ".")
        return f"{image}[{text}]({there}{anchor or ''})"

    return LINK.sub(as_in_the_site, markdown)
