"""Write the listing of the schema, ``schema.txt``: ``.venv/bin/python -m tests.listing``."""

from joblane.record.database import Database
from joblane.record.migrations import catalogue
from joblane.testing.databases import Databases
from joblane.testing.server_for_tests import server_for_tests

if __name__ == "__main__":
    catalogue.LISTING.touch()
    with server_for_tests() as server:
        databases = Databases(server.url)
        with databases.clone() as url, Database(url) as database:
            catalogue.LISTING.write_text(catalogue.listing(catalogue.read(database.get())))
        databases.close()
