"""Names of keys in Redis: every key of an organization carries its bucket's hash tag, so a script touches one slot."""

from __future__ import annotations

from faregate.core.call import Hold, Limit, LimitKind
from faregate.core.limit_ids import kind_of_key

LETTER: dict[LimitKind, str] = {"credits": "c", "tokens": "t", "requests": "r", "concurrency": "n"}


def base(bucket: int) -> str:
    """The common head of a bucket's keys."""
    return f"fg:{{b{bucket:03d}}}:"


def hold_keys(bucket: int, account_id: str) -> tuple[str, str, str, str]:
    """gate, account, holds, due: the keys of every script about a hold."""
    head = base(bucket)
    return head + "gate", f"{head}acct:{account_id}", f"{head}holds:{account_id}", head + "due"


def arrears(bucket: int, arrears_id: str) -> str:
    """The list of charges that an arrears hold stands for."""
    return f"{base(bucket)}arrears:{arrears_id}"


def member(account_id: str, hold_id: str) -> str:
    """A hold in the zset of deadlines."""
    return f"{account_id}|{hold_id}"


def limit_window(bucket: int, limit_key: str) -> str:
    """The hash of a limit window; `limit_key` is `<limit id>:<window start>`."""
    return f"{base(bucket)}lim:{limit_key}"


def limit_windows(hold: Hold) -> tuple[str, ...]:
    """The limit windows a hold is counted in."""
    return tuple([limit_window(hold.bucket, key) for key in hold.limit_keys]) if hold.limit_keys else ()


def limit_key(limit: Limit, start_s: int) -> str:
    """A limit's window as records name it."""
    return f"{limit.id}:{start_s}"


def limits_text(hold: Hold) -> str:
    """A hold's limit windows as the scripts write them: `<key>=<letter>,...` (limit id: `<owner>.<kind>.<window>`)."""
    return ",".join(f"{limit_window(hold.bucket, key)}={_letter(key)}" for key in hold.limit_keys)


def parse_limits(text: str, bucket: int) -> tuple[str, ...]:
    """The limit keys again."""
    head = limit_window(bucket, "")
    return tuple(part.rpartition("=")[0].removeprefix(head) for part in text.split(",") if part)


def _letter(key: str) -> str:
    return LETTER[kind_of_key(key)]  # type: ignore[index]  # limit ids are made by us
