"""Tables of text."""


def table_lines(rows, numbers_from=None):
    """Returns a table's lines, the head underlined.

    Args:
        rows: lists of strings, the head first.
        numbers_from: the first column that is aligned to the right. Defaults to `None`: none.
    """
    columns = len(rows[0])
    widths = [max(len(row[i]) for row in rows) for i in range(columns)]
    right = range(columns if numbers_from is None else numbers_from, columns)
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
