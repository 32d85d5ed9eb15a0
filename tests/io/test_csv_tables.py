"""Test the reader of users' CSV files: what it rejects, encodings, separators and missing values."""

import csv
import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babyvlm.errors import UserError
from babyvlm.io.tables import MISSING, Table, find_column, read_complete_rows, read_table

HEADING = "image,caption\n"


def write(path, content, encoding="utf-8"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def cells(table):
    return [list(row.cells.values()) for row in table]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADING + 'a.jpg,"a 12" window\n', r"row 2: quotation marks do not match"),
        (HEADING + 'a.jpg,a hill\nb.jpg,"moo\nc.jpg,a car\n', r"row 3: quotation marks do not match"),
        (HEADING + '"a.jpg,moo\nb.jpg,cow\nc.jpg,a car\n', r"row 2: quotation marks do not match"),
        # The second stray mark closes the first: three rows are one cell.
        (
            HEADING + 'a.jpg,a hill\nb.jpg,"moo\nc.jpg,a car\nd.jpg,he said moo"\n',
            r"row 3: a cell contains another row",
        ),
        (
            'Time,Text,Who\n0:05,"moo,M\n0:10,ball,M\n0:12,"",M\n',
            r"row 2: (a cell contains another row|quotation marks do not match)",
        ),
        (HEADING + "a.jpg,a house, a hill\n", r"row 2: 3 cells in a table of 2 columns \(a\.jpg,a house, a hill\)"),
        (HEADING + 'a.jpg, "a house, a hill"\n', "row 2: 3 cells"),
        (HEADING + "a.jpg,a hill,\n", "row 2: 3 cells"),
        (HEADING + "a.jpg,a hill\nb.jpg\n", "row 3: 1 cells in a table of 2 columns"),
        (HEADING + "a.jpg,look at\nthe duck\n", "row 3: 1 cells"),
        ("image\tcaption\na.jpg\ta\tb\n", r"row 2: 3 cells .* contain tabs"),
        ("Time,Who\n1,0:02,M\n2,0:06,M\n", "row 2: 3 cells"),  # R's write.table leaves the heading one short
        ("image,caption,image\na,b,c\n", "row 1: two columns are named 'image'"),
        (b"PK\x03\x04" + bytes(range(256)), "is a spreadsheet or archive\\. Save it as"),
        (b"\x00\x01\x02" * 9, "is not text"),
        (
            HEADING.encode() + "a.jpg,caf\u00e9\n".encode() + "b.jpg,b\u00e9b\u00e9\n".encode("cp1252"),
            "line 2: is not UTF-8",
        ),
        (
            HEADING.encode() + "a.jpg,\u043f\u043e\u0441\u043c\u043e\u0442\u0440\u0438\n".encode("cp1251"),
            "line 2: is not UTF-8",
        ),
        (HEADING.encode() + "a.jpg,\u732b\u3092\u898b\u3066\n".encode("shift_jis"), "line 2: is not UTF-8"),
        (HEADING.encode() + "a.jpg,\u00fcber\n".encode("cp850"), "line 2: is not UTF-8"),  # or "Åber" of an old Mac
        (HEADING.encode() + "a.jpg,\u00c0cole\n".encode("cp1252"), "line 2: is not UTF-8"),  # or "¿cole"
        (b"\xff\xfe\xff", "not readable as utf-16 CSV"),
    ],
)
def test_table_rejects_ambiguous_content(tmp_path, content, message):
    path = write(tmp_path / "list.csv", content)
    with pytest.raises(UserError, match=message) as refusal:
        list(Table(path))
    assert str(refusal.value).startswith(f"{path}")
    assert "\n" not in str(refusal.value)


def test_table_reads_quoted_cells_blank_lines_and_long_captions(tmp_path):
    content = '\ufeffimage , caption\n\na.jpg,"a house, a ""big"" one"\n \nb.jpg,"Red,\ngreen, blue"\nc.jpg,say "moo"\n'
    content = content.replace("\n", "\r\n")
    table = Table(write(tmp_path / "list.csv", content))
    assert table.columns == ("image", "caption")
    assert cells(table) == [
        ["a.jpg", 'a house, a "big" one'],
        ["b.jpg", "Red,\r\ngreen, blue"],
        ["c.jpg", 'say "moo"'],
    ]
    assert [(row.number, row.line) for row in table] == [(3, 3), (5, 6), (6, 7)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@given(
    rows=st.lists(
        st.tuples(*[st.text(st.sampled_from("ab ,;\t\"'é1"), min_size=1, max_size=9)] * 2).filter(
            lambda row: not {cell.strip() for cell in row} & {"", *MISSING}
        ),
        max_size=4,
    )
)
def test_table_reads_what_csv_writes(tmp_path_factory, separator, rows):
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows([("image", "caption"), *rows])
    path = write(tmp_path_factory.getbasetemp() / "round.csv", text.getvalue())
    assert cells(Table(path)) == [list(row) for row in rows]


TEXTS = {
    "apostrophe": "don\u2019t touch it",
    "quotes": "he said \u201cmoo\u201d",
    "French": "le b\u00e9b\u00e9 est l\u00e0, \u00c9mile",
    "German": "der B\u00e4r ist gr\u00f6\u00dfer",
    "Spanish": "\u00bfd\u00f3nde est\u00e1 el ni\u00f1o?",
    "capitals": "CAF\u00c9 caf\u00e9",
}


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "mac_roman", "cp850"]
)
@pytest.mark.parametrize("language", TEXTS)
def test_table_detects_encoding_or_rejects_file(tmp_path, encoding, language, capsys):
    text = TEXTS[language]
    try:
        path = write(tmp_path / "list.csv", f'{HEADING}a.jpg,"{text}"\nb.jpg,a hill and a tree\n', encoding)
    except UnicodeEncodeError:
        pytest.skip("the encoding has no such character")
    table = read_table(path)
    assert cells(table)[0] == ["a.jpg", text]
    reported = capsys.readouterr().err
    if encoding.startswith("utf"):
        assert reported == ""
    else:
        assert reported == f'note: {path}: read as {encoding}, because it is not UTF-8: a.jpg,"{text}"\n'


def test_table_uses_declared_encoding(tmp_path):
    path = write(tmp_path / "list.csv", HEADING + "a.jpg,\u00fcber\n", "cp850")
    assert cells(Table(path, encoding="cp850")) == [["a.jpg", "\u00fcber"]]
    with pytest.raises(UserError, match=r"not readable as utf-8 CSV"):
        list(Table(path, encoding="utf-8"))
    with pytest.raises(UserError, match=r"unknown encoding: klingon"):
        Table(path, encoding="klingon")


def test_table_escapes_invalid_bytes_if_asked(tmp_path):
    content = HEADING.encode() + "a.jpg,caf\u00e9\n".encode() + b"b.jpg,\xff\xfe\nc.jpg,a hill\n"
    table = Table(write(tmp_path / "list.csv", content), escape_invalid=True)
    assert [row["caption"] for row in table] == ["caf\u00e9", "\udcff\udcfe", "a hill"]


@pytest.mark.parametrize("value", sorted(MISSING))
def test_table_reads_missing_values_as_empty(tmp_path, value):
    path = write(
        tmp_path / "r.csv", f'"","Time","Text"\n"1","0:02",{value}\n"2",{value},"a {value}"\n"3","0:09","{value}"\n'
    )
    assert [[row["Time"], row["Text"]] for row in Table(path)] == [["0:02", ""], ["", f"a {value}"], ["0:09", ""]]
    with pytest.raises(UserError, match="row 2: Text is empty"):
        read_complete_rows(path, ["Time", "Text"])


def test_table_separated_by_tabs_may_have_quotation_marks_in_its_text(tmp_path):
    """Whisper and ELAN write text as it is; spreadsheets quote cells."""
    path = write(tmp_path / "a.tsv", 'start\ttext\n0\t"Moo," said the cow.\n9\tthe "cat\n12\t"end\n')
    assert [row["text"] for row in Table(path)] == ['"Moo," said the cow.', 'the "cat', '"end']
    path = write(tmp_path / "b.tsv", 'start\ttext\n0\t"Moo, ""moo""\tsaid\nthe cow."\n')
    assert [row["text"] for row in Table(path)] == ['Moo, "moo"\tsaid\nthe cow.']
    with pytest.raises(UserError, match="row 2: 3 cells in a table of 2 columns"):
        list(Table(write(tmp_path / "c.tsv", 'start\ttext\n0\t"Moo\tsaid the cow.\n')))


def test_table_without_heading_uses_names(tmp_path):
    path = write(tmp_path / "elan.txt", "Mother\t00:00:01.5\tlook, a duck\nChild\t00:00:03.0\tba\n")
    table = Table(path, names=["tier", "start", "text"])
    assert [row.number for row in table] == [1, 2]
    assert cells(table)[0] == ["Mother", "00:00:01.5", "look, a duck"]


def test_table_rejects_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path, tmp_path / "pipe.csv"):
        with pytest.raises(UserError, match="is not a file"):
            Table(path)
    with pytest.raises(UserError, match="No such file"):
        Table(tmp_path / "gone.csv")


def test_find_column_ignores_case_only_if_it_is_unambiguous(tmp_path):
    assert find_column(tmp_path, ["IMAGE", "Text"], ["caption", "text"]) == "Text"
    assert find_column(tmp_path, ["Image", "image"], ["image"]) == "image"
    with pytest.raises(UserError, match="'Image', 'IMAGE' differ in case only"):
        find_column(tmp_path, ["Image", "IMAGE"], ["image"])
    with pytest.raises(UserError, match=r"no column 'image' \(found no columns\); hint"):
        find_column(tmp_path, [], ["image"], "; hint")


def test_table_skips_excels_line_with_the_separator(tmp_path):
    path = write(tmp_path / "a.csv", "\ufeffsep=;\r\nTime;Text\r\n0:02;look, a duck\r\n")
    (row,) = Table(path)
    assert (row.number, row.line, dict(row.cells)) == (2, 3, {"Time": "0:02", "Text": "look, a duck"})
    assert cells(Table(write(tmp_path / "b.csv", "sep=,\n0:02,a;b;c\n"), names=["Time", "Text"])) == [["0:02", "a;b;c"]]


def test_table_with_quoted_heading_and_tabs_is_quoted(tmp_path):
    """R's write.table escapes quotation marks by a backslash: the cells would keep theirs, and match no speaker."""
    path = write(tmp_path / "r.tsv", '"who"\t"text"\n"M"\t"say \\"moo\\" now"\n')
    with pytest.raises(UserError, match="row 2: quotation marks do not match"):
        list(Table(path))
