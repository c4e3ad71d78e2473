"""What authentication reads: who a token stands for, with every active membership, in one state of the book."""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, select

from faregate.core.people import Person, SigningKey, Standing, StoredPassword
from faregate.ledger import tables
from faregate.ledger.database import Database
from faregate.ledger.dialect import one_at_a_time
from faregate.ledger.users import INSTALLATION

_u = tables.users.c
_m = tables.memberships.c
_p = tables.app_passwords.c
_k = tables.signing_keys.c


class People:
    """Reads raise BookUnavailable. Users that are not active are nobody."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def password(self, password_id: str) -> StoredPassword | None:
        """An app password, revoked and expired ones included."""
        return await self._database.read(_stored_password, password_id)

    async def touch(self, password_id: str, used_us: int) -> None:
        """Note when an app password was used."""
        await self._database.upkeep(_touch, password_id, used_us)

    async def known_as(self, subject: str, email: str | None) -> tuple[bool, Person | None]:
        """One of the installation's users: by subject, else by the email of one that has no subject.

        Whether there is such a user, and the person, unless they are not active.
        """
        return await self._database.read(_known_as, subject, email)

    async def signing_key(self, key_id: str) -> SigningKey | None:
        """A key that tokens were or are signed with."""
        return await self._database.read(_signing_key, key_id)

    async def newest_signing_key(self) -> SigningKey | None:
        """The key to sign with, unless it is too old."""
        return await self._database.read(_newest)

    async def add_signing_key(self, key: SigningKey, *, renew_us: int, drop_us: int) -> SigningKey:
        """Keep `key` and answer with it, unless another process was faster: a key made after `renew_us` is.

        Keys made before `drop_us` are deleted.
        """
        return await self._database.upkeep(_add_signing_key, key, renew_us, drop_us)


def _stored_password(conn: Connection, password_id: str) -> StoredPassword | None:
    row = conn.execute(select(tables.app_passwords).where(_p.id == password_id)).mappings().first()
    if row is None:
        return None
    user = conn.execute(select(tables.users).where(_u.id == row["user_id"])).mappings().first()
    return StoredPassword(
        id=row["id"],
        secret_hash=row["secret_hash"],
        expires_us=row["expires_us"],
        revoked=row["revoked_us"] is not None,
        last_used_us=row["last_used_us"],
        person=_person(conn, user),
    )


def _touch(conn: Connection, password_id: str, used_us: int) -> None:
    conn.execute(tables.app_passwords.update().where(_p.id == password_id).values(last_used_us=used_us))


def _known_as(conn: Connection, subject: str, email: str | None) -> tuple[bool, Person | None]:
    own = select(tables.users).where(_u.home == INSTALLATION)
    row = conn.execute(own.where(_u.subject == subject)).mappings().first()
    if row is None and email is not None:
        row = conn.execute(own.where(_u.email == email, _u.subject.is_(None))).mappings().first()
    return row is not None, _person(conn, row)


def _person(conn: Connection, user: RowMapping | None) -> Person | None:
    if user is None or not user["active"]:
        return None
    organization = tables.organizations.c
    query = (
        select(_m.organization_id, organization.name, _m.role)
        .join(tables.organizations, organization.id == _m.organization_id)
        .where(_m.user_id == user["id"], _m.active)
        .order_by(_m.id)
    )
    standings = [Standing(organization_id=row[0], organization_name=row[1], role=row[2]) for row in conn.execute(query)]
    return Person(
        id=user["id"],
        uuid=user["uuid"],
        email=user["email"],
        home=user["home"] or None,
        standings=tuple(standings),
    )


# Keys ---------------------------------------------------------------------------------------------------


def _signing_key(conn: Connection, key_id: str) -> SigningKey | None:
    row = conn.execute(select(tables.signing_keys).where(_k.id == key_id)).mappings().first()
    return None if row is None else SigningKey(**row)


def _newest(conn: Connection) -> SigningKey | None:
    query = select(tables.signing_keys).order_by(_k.created_us.desc(), _k.id.desc()).limit(1)
    row = conn.execute(query).mappings().first()
    return None if row is None else SigningKey(**row)


def _add_signing_key(conn: Connection, key: SigningKey, renew_us: int, drop_us: int) -> SigningKey:
    one_at_a_time(conn, "signing key")
    newest = _newest(conn)
    if newest is not None and newest.created_us > renew_us:
        return newest
    conn.execute(tables.signing_keys.delete().where(_k.created_us < drop_us))
    conn.execute(tables.signing_keys.insert().values(id=key.id, secret=key.secret, created_us=key.created_us))
    return key
