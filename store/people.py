"""The people who talk to the bot: names, access, and consent to training."""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from store.database import Database, in_parts
from store.domain import Access, Person
from store.memories import of_person, reconsider, retry_withheld
from store.tables import FeedbackRow, PersonRow

CONSENT_VERSION = 1
"""The version of the question for consent to training; a new wording gets a new number."""


class People:
    """The people of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def see(self, person_id: int, name: str, *, username: str | None = None) -> Person:
        """Return a person; store them if they are new, or their names if these have changed.

        `username` is Telegram's, without the @, and empty for none; None leaves it as it is.
        """
        known = self.find(person_id)
        if known is not None and known.name == name and username in (None, known.username or ""):
            return known
        try:
            with self._database.session() as session:
                return _person(self._upsert(session, person_id, name, username))
        except IntegrityError:  # another thread stored them in the same moment
            with self._database.session() as session:
                return _person(self._upsert(session, person_id, name, username))

    def named(self, username: str) -> int | None:
        """Return the id of the person who was last seen with a username, in any case of letters."""
        matches = (
            select(PersonRow.id).where(func.lower(PersonRow.username) == username.lower()).limit(1)
        )
        with self._database.reading() as session:
            return session.scalar(matches)

    def decided(self) -> tuple[Person, ...]:
        """Return the people about whom an admin has decided, or who were invited; by name."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(PersonRow)
                .where(PersonRow.access != Access.UNDECIDED)
                .order_by(PersonRow.access, PersonRow.name, PersonRow.id)
            )
            return tuple(_person(row) for row in rows)

    def find(self, person_id: int) -> Person | None:
        """Return a person, or None if they were never seen."""
        with self._database.reading() as session:
            row = session.get(PersonRow, person_id)
            return _person(row) if row else None

    def decide(self, person_id: int, access: Access) -> Person:
        """Record an admin's decision, also about somebody who has not written yet."""
        with self._database.session() as session:
            row = self._upsert(session, person_id, None)
            row.access = access
            reconsider(session, of_person(person_id))
            if access is not Access.DENIED:
                retry_withheld(session)
            return _person(row)

    def vouched(self, among: Collection[int]) -> frozenset[int]:
        """Return those of some people whom an admin let in, by name or by an invitation."""
        return self._matching(among, PersonRow.access.in_((Access.ALLOWED, Access.INVITED)))

    def newcomers(
        self, among: Collection[int], *, age: timedelta, active_days: int
    ) -> frozenset[int]:
        """Return those of some people who are new.

        They were first seen less than `age` ago, or rated on fewer than `active_days` different
        days.
        """
        days = (
            select(func.count(func.distinct(func.date(FeedbackRow.created_at))))
            .where(FeedbackRow.person_id == PersonRow.id)
            .scalar_subquery()
        )
        since = self._database.now() - age
        return self._matching(among, or_(PersonRow.first_seen > since, days < active_days))

    def _matching(self, among: Collection[int], condition: ColumnElement[bool]) -> frozenset[int]:
        with self._database.reading() as session:
            return frozenset(
                person
                for part in in_parts(among)
                for person in session.scalars(
                    select(PersonRow.id).where(PersonRow.id.in_(part), condition)
                )
            )

    def opt_out(self, person_id: int, opted_out: bool) -> Person:
        """Record that a person opts out of training, or agrees to it."""
        with self._database.session() as session:
            row = self._upsert(session, person_id, None)
            row.opted_out = opted_out
            row.consented_to = None if opted_out else CONSENT_VERSION
            row.decided_at = self._database.now()
            reconsider(session, of_person(person_id))
            if not opted_out:
                retry_withheld(session)
            return _person(row)

    def ask(self, person_id: int) -> bool:
        """Record that a person is asked for consent to training; False if they were before.

        From then on they do not teach until they say yes.
        """
        known = self.find(person_id)
        if known is not None and (known.asked_at or known.decided_at):
            return False
        with self._database.session() as session:
            row = self._upsert(session, person_id, None)
            if row.asked_at is not None or row.decided_at is not None:
                return False  # somebody was faster
            row.asked_at = self._database.now()
            reconsider(session, of_person(person_id))
        return True

    def take_back_question(self, person_id: int) -> None:
        """Record that the question for consent did not reach a person: they may be asked again."""
        with self._database.session() as session:
            row = session.get(PersonRow, person_id, with_for_update=True)
            if row is not None and row.decided_at is None:
                row.asked_at = None
                reconsider(session, of_person(person_id))
                retry_withheld(session)

    def _upsert(
        self, session: Session, person_id: int, name: str | None, username: str | None = None
    ) -> PersonRow:
        row = session.get(PersonRow, person_id)
        if row is None:
            row = PersonRow(
                id=person_id,
                name=name or "",
                access=Access.UNDECIDED,
                opted_out=False,
                first_seen=self._database.now(),
            )
            session.add(row)
        elif name is not None:
            row.name = name
        if username is not None:
            row.username = username or None
        if username:
            of_another = (func.lower(PersonRow.username) == username.lower()) & (
                PersonRow.id != person_id
            )  # who had the name before has given it up
            session.execute(update(PersonRow).where(of_another).values(username=None))
        session.flush()
        return row


def _person(row: PersonRow) -> Person:
    return Person(
        id=row.id,
        name=row.name,
        username=row.username,
        access=Access(row.access),
        opted_out=row.opted_out,
        consented_to=row.consented_to,
        asked_at=row.asked_at,
        decided_at=row.decided_at,
        first_seen=row.first_seen,
    )
