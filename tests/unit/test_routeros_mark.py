"""The ownership mark: read back whole, readable for people, and every edit is seen."""

import zlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rds_csi.arrays.routeros.mark import MAX_COMMENT, DamagedMark, Kind, Mark, beginning, decode
from rds_csi.arrays.routeros.values import check_value
from rds_csi.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from rds_csi.model.parameters import Provisioning
from rds_csi.model.volumes import AccessMode, Attachment, ContentSource, Node, SourceKind

TEXT = st.text(max_size=30)
NAMED = st.text(min_size=1, max_size=30)
ATTACHMENTS = st.builds(
    Attachment,
    node=st.builds(Node, TEXT, TEXT),
    token=TEXT,
    access_mode=st.sampled_from(AccessMode),
    readonly=st.booleans(),
)
MARKS = st.builds(
    Mark,
    kind=st.sampled_from(Kind),
    driver=NAMED,
    cluster=NAMED,
    object_id=NAMED,
    name=TEXT,
    provisioning=st.sampled_from(Provisioning),
    source=st.none() | st.builds(ContentSource, st.sampled_from(SourceKind), TEXT),
    mutable_parameters=st.dictionaries(TEXT, TEXT, max_size=3),
    attachments=st.lists(ATTACHMENTS, max_size=4).map(tuple),
    source_volume_id=TEXT,
    created=st.none() | st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)),
    group_id=TEXT,
    group_name=TEXT,
    ready=st.booleans(),
    job=TEXT,
    path=TEXT,
)
PLAIN = Mark(Kind.VOLUME, "rds.csi.example", "cluster-a", "pvc-1", "pvc-1")
FULL = Mark(
    Kind.VOLUME,
    "rds.csi.example",
    "cluster-a",
    "pvc-1",
    "Größe: 1/2",
    provisioning=Provisioning.THIN,
    source=ContentSource(SourceKind.SNAPSHOT, "snap-7"),
    mutable_parameters={"ctrlLossTmo": "30"},
    attachments=(Attachment(Node("node-a", "nqn.2014-08.org.nvmexpress:uuid:1"), "t1", AccessMode.SINGLE_NODE_WRITER),),
)


@given(MARKS)
def test_a_mark_reads_back_as_itself(mark: Mark) -> None:
    comment = mark.encode()
    assert decode(comment) == mark
    assert check_value(comment, "comment") == comment


@given(MARKS)
def test_marks_of_an_object_begin_alike(mark: Mark) -> None:
    comment = mark.encode()
    assert comment.startswith(beginning(mark.driver, mark.cluster, mark.kind, mark.object_id))


@given(NAMED, NAMED)
def test_no_object_begins_like_another(one: str, other: str) -> None:
    if one != other:
        whole = Mark(Kind.VOLUME, "d", "c", one, "n").encode()
        assert not whole.startswith(beginning("d", "c", Kind.VOLUME, other))
        assert not whole.startswith(beginning("d", other, Kind.VOLUME, one)) or other == "c"
    assert not Mark(Kind.VOLUME, "d", "c", one, "n").encode().startswith(beginning("d", "c", Kind.SNAPSHOT, one))


def test_a_mark_is_readable_and_its_form_never_changes() -> None:
    """Marks are on arrays for years: what was written must be read."""
    assert PLAIN.encode() == "rds-csi/1/rds.csi.example/cluster-a/v:pvc-1/x:1bfb8c44"
    body = (
        "rds-csi/1/rds.csi.example/cluster-a/v:pvc-1/n:Gr_C3_B6_C3_9Fe_3A_201_2F2/p:thin/c:snapshot:snap-7"
        "/m:ctrlLossTmo:30/a:node-a:nqn.2014-08.org.nvmexpress_3Auuid_3A1:t1:SINGLE_5FNODE_5FWRITER:rw"
    )
    assert FULL.encode() == f"{body}/x:{zlib.crc32(body.encode()):08x}"
    snapshot = Mark(
        Kind.SNAPSHOT,
        "d",
        "c",
        "snap-7",
        "snap-7",
        source_volume_id="pvc-1",
        created=datetime(2026, 11, 21, 13, 45, 0, 123456, UTC),
        group_id="g1",
        group_name="G",
        ready=False,
        job="*1F",
        path="raid10/x.img",
    )
    body = "rds-csi/1/d/c/s:snap-7/o:pvc-1/t:20261121T134500.123456Z/g:g1:G/r:no/j:_2A1F/f:raid10_2Fx.img"
    assert snapshot.encode() == f"{body}/x:{zlib.crc32(body.encode()):08x}"


def _is_seen(comment: str) -> bool:
    try:
        return decode(comment) is None
    except DamagedMark:
        return True


@settings(max_examples=40)
@example(FULL, "0")
@given(MARKS, st.characters())
def test_every_edit_of_one_character_is_seen(mark: Mark, character: str) -> None:
    comment = mark.encode()
    for place in range(len(comment)):
        head, old, tail = comment[:place], comment[place], comment[place + 1 :]
        assert _is_seen(head + tail)
        assert _is_seen(head + character + old + tail)
        if character != old:
            assert _is_seen(head + character + tail)


@given(MARKS)
def test_a_cut_mark_and_one_in_other_case_are_damaged(mark: Mark) -> None:
    comment = mark.encode()
    for end in range(len("rds-csi/1/"), len(comment)):
        with pytest.raises(DamagedMark):
            decode(comment[:end])
    for edited in (f"{comment} ", f"{comment}\n", f"{comment}/", comment + comment):
        with pytest.raises(DamagedMark):
            decode(edited)


@pytest.mark.parametrize(
    "comment", ["", "my disk", "rds-csi", "rds-csi-2/1/x", "k8s-pvc:prod:db", " rds-csi/1/d/c/v:a/x:0"]
)
def test_a_foreign_comment_is_no_mark(comment: str) -> None:
    assert decode(comment) is None


@pytest.mark.parametrize("comment", ["rds-csi/", "rds-csi/2/d/c/v:a/x:00000000", "rds-csi/1", "rds-csi/10/d/c/v:a/x:0"])
def test_another_format_is_left_alone_and_says_so(comment: str) -> None:
    with pytest.raises(DamagedMark, match="does not know"):
        decode(comment)


def _sealed(body: str) -> str:
    return f"{body}/x:{zlib.crc32(body.encode()):08x}"


@pytest.mark.parametrize(
    "body",
    [
        "rds-csi/1/d/c/v:a/z:1",
        "rds-csi/1/d/c/q:a",
        "rds-csi/1/d/c",
        "rds-csi/1/d/c/v:a:b",
        "rds-csi/1/d/c/v:a/n:a",
        "rds-csi/1/d/c/v:a/n:_zz",
        "rds-csi/1/d/c/v:a/n:_ff",
        "rds-csi/1/d/c/v:a/n:_FF",
        "rds-csi/1/d/c/v:a/n:_41",
        "rds-csi/1/d/c/v:a/n:é",
        "rds-csi/1/d/c/v:a/n:b/n:c",
        "rds-csi/1/d/c/v:a/p:thick",
        "rds-csi/1/d/c/v:a/c:disk:x",
        "rds-csi/1/d/c/v:a/t:yesterday",
        "rds-csi/1/d/c/v:a/g:1",
        "rds-csi/1/d/c/v:a/r:yes",
        "rds-csi/1/d/c/v:a/a:n:h:t:NO_5FMODE:rw",
        "rds-csi/1/d/c/v:a/a:n:h:t:SINGLE_5FNODE_5FWRITER:wo",
        "rds-csi/1/d/c/v:a/a:n",
        "rds-csi/1//c/v:a",
        "rds-csi/1/d/c/v:",
    ],
)
def test_a_right_checksum_over_a_wrong_field_is_damaged(body: str) -> None:
    with pytest.raises(DamagedMark):
        decode(_sealed(body))


@given(st.text())
def test_no_comment_makes_decoding_fail_otherwise(text: str) -> None:
    for comment in (text, f"rds-csi/1/{text}", _sealed_text(f"rds-csi/1/d/c/v:a/{text}")):
        try:
            mark = decode(comment)
        except DamagedMark:
            continue
        assert mark is None or mark.encode() == comment


def _sealed_text(body: str) -> str:
    return f"{body}/x:{zlib.crc32(body.encode('utf-8', 'surrogatepass')):08x}"


def test_more_attachments_than_a_comment_holds_are_refused() -> None:
    many = tuple(
        Attachment(Node(f"node-{index}", "n" * 200), "t", AccessMode.MULTI_NODE_MULTI_WRITER) for index in range(99)
    )
    with pytest.raises(ResourceExhausted):
        Mark(Kind.VOLUME, "d", "c", "a", "a", attachments=many).encode()
    few = Mark(Kind.VOLUME, "d", "c", "a", "a", attachments=many[:50]).encode()
    assert len(few) <= MAX_COMMENT


def test_times_are_kept_in_utc() -> None:
    moment = datetime(2026, 11, 21, 14, 0, tzinfo=timezone(timedelta(hours=1)))
    mark = decode(Mark(Kind.SNAPSHOT, "d", "c", "a", "a", created=moment).encode())
    assert mark is not None
    assert mark.created == moment
    assert mark.created.utcoffset() == timedelta(0)


def test_a_mark_without_an_owner_or_with_a_naive_time_cannot_be_made() -> None:
    for driver, cluster, object_id in (("", "c", "a"), ("d", "", "a"), ("d", "c", "")):
        with pytest.raises(InvalidArgument):
            Mark(Kind.VOLUME, driver, cluster, object_id, "n")
    with pytest.raises(InvalidArgument):
        Mark(Kind.VOLUME, "d", "c", "a", "n", created=datetime(2026, 1, 1))
    assert issubclass(DamagedMark, FailedPrecondition)
