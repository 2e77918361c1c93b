"""Installation of osum_echat; what each dependency is for stands in requirements.txt."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def read_requirements() -> list[str]:
    """The lines of requirements.txt without comments."""
    lines = (line.split("#")[0].strip() for line in (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def read_version() -> str:
    """The version stands once, in osum_echat/__init__.py."""
    for line in (HERE / "osum_echat" / "__init__.py").read_text(encoding="utf-8").splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise RuntimeError("osum_echat/__init__.py has no __version__ line")


setup(
    name="osum_echat",
    version=read_version(),
    description="Train, evaluate and serve empathetic speech-to-speech language models",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["osum_echat", "osum_echat.*"]),
    package_data={"osum_echat": ["text/prompts/*.yaml", "datagen/*.yaml", "evaluate/*.yaml"]},
    install_requires=read_requirements(),
    extras_require={
        "mini": ["espeakng-loader>=0.2.4"],  # the voice of the mini corpus: library and voices inside the wheel
        "onnx": ["onnxruntime>=1.16"],  # published speech tokenizers and speaker embeddings
        "test": ["pytest>=8.0", "jiwer>=3.0", "hypothesis>=6.100", "ruff>=0.6", "mypy>=1.10", "types-PyYAML", "transformers>=4.51"],
    },
    entry_points={"console_scripts": ["osum-echat=osum_echat.bin.main:main"]},
)
