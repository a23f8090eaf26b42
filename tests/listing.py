"""Write the listing of the schema, ``schema.txt``: ``.venv/bin/python -m tests.listing``."""

from joblane.record.driver.database import Database
from joblane.record.migrations import catalogue
from joblane.record.migrations.fixes import Schema
from joblane.testing.databases import Databases
from joblane.testing.server_for_tests import server_for_tests


def listing(schema: Schema) -> str:
    """Return the text of ``schema.txt``: a line for each object."""
    return "".join("\t".join((*key, definition)) + "\n" for key, definition in schema.items())


if __name__ == "__main__":
    catalogue.LISTING.write_text("")  # a migration would refuse what has changed
    with server_for_tests() as server:
        databases = Databases(server.url)
        with databases.clone() as url, Database(url) as database:
            catalogue.LISTING.write_text(listing(catalogue.read(database.get())))
        databases.close()
