"""Write the generated parts of the reference."""

from tests.reference import page, rendered
from tests.reference.sections import PAGES

for name in PAGES:
    page(name).write_text(rendered(name, page(name).read_text()))
