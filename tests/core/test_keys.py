"""Keys: what they say, and that nothing else passes for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.errors import InvalidInput, InvalidType
from taskloom.model import SHARD_SIZE, Kind, TaskKey, task_type, tenant_code
from tests.core.strategies import codes, indexes, keys, sub_keys, task_types, tenants, top_keys

CODE = "01J0000000000000000000000A"


@given(keys)
def test_a_key_is_read_back_from_its_id(key: TaskKey) -> None:
    read = TaskKey.parse(key.id)
    assert read == key
    assert hash(read) == hash(key)
    assert read.id == key.id == f"{key.pk}#{key.sk}" == str(key)


@given(keys)
def test_a_made_key_says_what_its_text_says(key: TaskKey) -> None:
    """A key that is made knows its parts without reading its text: both must agree."""
    assert key.parts == TaskKey(key.pk, key.sk).parts


@given(tenants, task_types, codes)
def test_the_shapes_of_top_level_keys(tenant: str, type_: str, code: str) -> None:
    single = TaskKey.single(tenant, type_, code)
    assert (single.pk, single.sk) == (f"TASK#{tenant}", f"{type_}#{code}")
    assert single.kind is Kind.TASK
    fan_out = TaskKey.step_function(tenant, type_, code)
    assert (fan_out.pk, fan_out.sk) == (f"SFN_TASK#{tenant}", f"{type_}#{code}")
    assert fan_out.kind is Kind.SFN_TASK
    assert single.tenant_code == fan_out.tenant_code == tenant
    assert single.parts.index is fan_out.parts.index is None


@given(tenants, task_types, codes, indexes)
def test_the_shape_of_sub_task_keys(tenant: str, type_: str, code: str, index: int) -> None:
    """No partition holds more than SHARD_SIZE sub-tasks, and none of them shares one with a parent."""
    key = TaskKey.sub_task(tenant, type_, code, index)
    assert key.pk == f"SFN_TASK#{tenant}#{code}#{index // SHARD_SIZE}"
    assert key.sk == f"{type_}#{code}#{index:07d}"
    assert len(key.sk.rpartition("#")[2]) == 7
    assert key.kind is Kind.SUB_TASK
    assert key.parts.index == index
    assert key.parent == TaskKey.step_function(tenant, type_, code)
    assert key.pk != key.parent.pk


@given(sub_keys, sub_keys)
def test_sub_tasks_sort_in_the_order_of_their_indexes(one: TaskKey, other: TaskKey) -> None:
    """Within one fan-out: the sort key is padded for it."""
    other = TaskKey.sub_task(one.tenant_code, one.parts.task_type, one.parts.code, other.parts.index or 0)
    first, second = one.parts.index or 0, other.parts.index or 0
    assert (one.sk < other.sk) == (first < second)


@given(top_keys)
def test_a_top_level_task_is_its_own_parent(key: TaskKey) -> None:
    assert key.parent == key


@given(st.text(st.sampled_from("TASKSFN_#01A.-é \n"), max_size=60))
def test_what_is_read_as_a_key_was_one(text: str) -> None:
    """Anything else is refused with InvalidInput, and with nothing else."""
    try:
        key = TaskKey.parse(text)
    except InvalidInput:
        return
    assert key.id == text
    assert TaskKey(key.pk, key.sk).parts == key.parts


@given(keys, st.integers(0, 200), st.sampled_from(["", "#", "é", "\n", " ", "x", "0"]))
def test_a_damaged_key_is_no_other_tasks_key(key: TaskKey, at: int, damage: str) -> None:
    """Whatever is lost or slips in: the damaged text is refused, or names exactly what it says."""
    at %= len(key.id)
    text = key.id[:at] + damage + key.id[at + 1 :]
    try:
        read = TaskKey.parse(text)
    except InvalidInput:
        return
    assert read.id == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#",
        "TASK",
        "TASK#acme",
        "TASK#acme#cat",
        f"TASK#acme#cat#{CODE}#0000001",
        f"task#acme#cat#{CODE}",
        f"CHUNK#acme#cat#{CODE}",
        f"SUB_TASK#acme#cat#{CODE}",
        f"TASK##cat#{CODE}",
        "TASK#acme#cat#",
        f"TASK#acme#{CODE}#cat#{CODE}",
        f"TASK#{'a' * 65}#cat#{CODE}",
        f"TASK#acme#{'a' * 129}#{CODE}",
        f"TASK#a.b#cat#{CODE}",
        f"TASK#acme#c t#{CODE}",
        f"TASK#acme#cat#{CODE}\n",
        f"TASK#acme\n#cat#{CODE}",
        f"TASK#ácme#cat#{CODE}",
        f"SFN_TASK#acme#{CODE}#0#cat#{CODE}",
        f"SFN_TASK#acme#{CODE}#0#cat#{CODE}#1",
        f"SFN_TASK#acme#{CODE}#0#cat#{CODE}#00000001",
        f"SFN_TASK#acme#{CODE}#0#cat#{CODE}#000000x",
        f"SFN_TASK#acme#{CODE}#0#cat#{CODE}#-000001",
        f"SFN_TASK#acme#{CODE}#0#cat#{CODE}#\u0660\u0660\u0660\u0660\u0660\u0660\u0661",
        f"SFN_TASK#acme#{CODE}#1#cat#{CODE}#0000999",
        f"SFN_TASK#acme#{CODE}#0#cat#{CODE}#0001000",
        f"SFN_TASK#acme#{CODE}#00#cat#{CODE}#0000001",
        f"SFN_TASK#acme#{CODE}#0#cat#{CODE[:-1]}B#0000001",
        f"TASK#acme#{CODE}#0#cat#{CODE}#0000001",
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^key: "):
        TaskKey.parse(text)


@pytest.mark.parametrize(
    ("pk", "sk"),
    [("TASK#acme#cat", CODE), ("TASK", f"acme#cat#{CODE}"), (f"TASK#acme#cat#{CODE}", ""), ("", "")],
)
def test_a_text_cut_at_another_place_is_no_key(pk: str, sk: str) -> None:
    """The same id, but pk and sk are not those of the task: it must not pass for it."""
    with pytest.raises(InvalidInput, match=r"^key: "):
        TaskKey(pk, sk).parts  # noqa: B018 - raises


@given(st.text(max_size=70))
def test_names_of_tenants(text: str) -> None:
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
    if 1 <= len(text) <= 64 and set(text) <= allowed:
        assert tenant_code(text) == text
    else:
        with pytest.raises(InvalidInput, match=r"^tenant_code: "):
            tenant_code(text)


@pytest.mark.parametrize("check", [tenant_code, task_type])
@pytest.mark.parametrize("value", [None, 1, b"acme", ["acme"], object()])
def test_names_are_strings(check: object, value: object) -> None:
    with pytest.raises(InvalidType, match=r"^field\.x: "):
        check(value, "field.x")  # type: ignore[operator]


@pytest.mark.parametrize("value", ["a", "a" * 128, "A.b_c-9", "..."])
def test_names_of_task_types(value: str) -> None:
    assert task_type(value) == value


@pytest.mark.parametrize("value", ["", "a" * 129, "a#b", "a b", "a/b", "a\n", "\n", "ä"])
def test_what_is_no_name_of_a_task_type(value: str) -> None:
    with pytest.raises(InvalidInput, match=r"^task_type: "):
        task_type(value)
