# SPDX-License-Identifier: Apache-2.0
"""Packaging of vitdet_d2: the package, and the recipes as ``vitdet_d2/{projects,configs}``.

Nothing is installed beside ``vitdet_d2/``: the bundled Detectron2 API stays inside it, so that an
installed Detectron2 is never shadowed.
"""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "vitdet_d2/__init__.py").read_text())[1]

# Recipes live at the root, where users run them, and ship in the package, where names find them.
RECIPE_FOLDERS = ["projects", "configs"]
recipe_packages = {
    f"vitdet_d2.{name}": name.replace(".", "/")
    for folder in RECIPE_FOLDERS
    for name in [folder, *(f"{folder}.{sub}" for sub in find_namespace_packages(folder))]
    if "__pycache__" not in name
}

# Lower bounds that Detectron2 itself pins (omegaconf, iopath, fvcore) stay within its ranges, so
# that both can live in one environment. torch >= 2.10: safe reading of files from outside.
REQUIRES = [
    "torch>=2.10",
    "torchvision>=0.25",
    "timm>=1.0",
    "fvcore>=0.1.5",
    "iopath>=0.1.7",
    "omegaconf>=2.1,<3",
    "pycocotools>=2.0.8",
    "safetensors>=0.8",
    "numpy>=1.26",
    "pillow>=10.1",
    "pyyaml>=6",
    "tqdm>=4.60",
    "tensorboard>=2.14",
]
QUICKSTART = ["scikit-learn>=1.3"]
PLOTS = ["matplotlib>=3.8"]
TUNE = ["optuna>=4"]
FAST_EVAL = ["hotcoco>=1.3"]
FAST_DATA = ["simplejpeg>=1.8"]
TEST = [
    *FAST_DATA,
    *QUICKSTART,
    *PLOTS,
    *TUNE,
    *FAST_EVAL,
    "pytest>=8",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "scipy>=1.10",
    "shapely>=2",
    "transformers>=5",
    "build>=1",
    "setuptools>=64",
    "wheel",
    "ruff>=0.14",
    "mypy>=1.15",
    "codespell>=2.3",
    "types-PyYAML",
    "types-tqdm",
    "types-setuptools",
]

setup(
    name="vitdet_d2",
    version=VERSION,
    description="Plain Vision Transformers as detection backbones, for Detectron2 and without it",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        *(
            name
            for name in find_namespace_packages(include=["vitdet_d2", "vitdet_d2.*"])
            if "__pycache__" not in name
        ),
        *recipe_packages,
    ],
    package_dir=recipe_packages,
    install_requires=REQUIRES,
    extras_require={
        "quickstart": QUICKSTART,
        "plots": PLOTS,
        "tune": TUNE,
        "fast-eval": FAST_EVAL,
        "fast-data": FAST_DATA,
        "test": TEST,
        "dev": [*TEST, "pre-commit>=3.7"],
    },
    entry_points={"console_scripts": ["vitdet = vitdet_d2.engine.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
