"""New projects: `cpg-trio new`.

names       what a name may be, and what becomes of it
package     the wheel of this package that a project depends on
project     renders the templates, generates the code, and writes the folder
templates   the files, as jinja has them
"""

from cpg_trio.scaffold.names import NameRefusedError as NameRefusedError, Names as Names
from cpg_trio.scaffold.package import Package as Package, PackageError as PackageError
from cpg_trio.scaffold.project import NewProject as NewProject, new_project as new_project
