"""The data set that a name or a path means."""

from tensorflow_datasets.core import constants

from alexnet_jax.config import Config
from alexnet_jax.data import (
    imagenet,
    imagenet_tars,
    kaggle_imagenet,
    parquet_images,
    synset_tars,
    tfds_dataset,
)
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.folder import Folder
from alexnet_jax.data.store.store import Store, is_store
from alexnet_jax.data.types import DataError
from alexnet_jax.host import paths


def open_dataset(config: Config, silent: bool = True, may_prepare: bool = True) -> Dataset:
    """Opens what `config.dataset` names: a store, a folder split/class/image, ILSVRC as Kaggle or
    Hugging Face gives it, archives of classes, what TFDS prepared in a folder, or a TFDS data set
    by name.

    Args:
      config: its `dataset`, `data_dir`, `resize` and `exif_orientation`.
      silent: show no progress while it is scanned?
      may_prepare: may TFDS prepare it? If not, an unprepared data set has no splits.

    Raises:
      DataError: there is no such data set or folder, it does not hold images with labels, or it is
        a store of another `resize`.
    """
    path = paths.local(config.dataset, "dataset")
    if is_store(path):
        store = Store(path)
        if store.side != config.resize:
            raise DataError(
                f"resize: {path} holds images of {store.side}, not {config.resize}; prepare it "
                f"again with --resize={config.resize}, or train with --config.resize={store.side}"
            )
        turned = bool(store.manifest["options"]["exif_orientation"])
        if turned != config.exif_orientation:
            raise DataError(
                f"exif_orientation: {path} was prepared with {turned}; set the field to that, or "
                "prepare it again"
            )
        return store
    if path.is_dir():
        if root := kaggle_imagenet.root_of(path):
            return kaggle_imagenet.KaggleImagenet(root)
        if shards := parquet_images.shards_in(path):
            return parquet_images.ParquetImages(path, shards)
        if archives := imagenet_tars.archives_in(path):
            return imagenet_tars.ImagenetTars(path, archives, silent)
        if synset_tars.is_one(path):
            return synset_tars.SynsetTars(path, silent)
        prepared = tfds_dataset.prepared_in(path)
        return tfds_dataset.in_folder(prepared) if prepared else Folder(path)
    if path.is_file():
        if synset_tars.is_one(path):
            return synset_tars.SynsetTars(path, silent)
        raise DataError(
            f"dataset: {path} is a file; name a folder, or a .tar that holds one .tar a class"
        )
    if "/" in config.dataset and config.dataset[0] in "./~":
        raise DataError(f"dataset: there is no folder or archive {path}")
    data_dir = paths.local(config.data_dir or constants.DATA_DIR, "data_dir")
    by_tfds = data_dir / imagenet.NAME  # where TFDS prepares it, and people put a store of theirs
    if config.dataset == imagenet.NAME and (not by_tfds.is_dir() or is_store(by_tfds)):
        return imagenet.ImagenetArchives(data_dir / "downloads" / "manual", silent)
    return tfds_dataset.by_name(config.dataset, config.data_dir, may_prepare)
