"""Write the package's metadata (name and version) next to its source in an image, as an installer would.

The images copy the source instead of building a wheel, so that a change of the source changes only one small layer.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
folder = Path(sys.argv[2]) / f"{project['name']}-{project['version']}.dist-info"
folder.mkdir(parents=True)
text = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
(folder / "METADATA").write_text(text, encoding="utf-8")
