"""Where data come from and how they are split: the section `data`, and the settings of the sources that are ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from detloom_schemas.base import (
    Aliases,
    GroupRule,
    Names,
    Numbers,
    Positive,
    Probability,
    Settings,
    choice,
    local_path,
    plugin_list,
)

NO_ALIASES: dict[str, str] = {}
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None


class LocalDataSource(Settings):
    """A folder on this machine."""

    path: Annotated[str, local_path("folder with train/ valid/ test/, or with COCO json files, or one json")] = ""
    images: Annotated[str | None, local_path("folder of the images, when the json files stand elsewhere")] = None
    train: Annotated[str | None, local_path("annotation file of the training split")] = None
    val: Annotated[str | None, local_path("annotation file of the validation split")] = None
    test: Annotated[str | None, local_path("annotation file of the test split")] = None


class MinIODataSource(Settings):
    """Data in a bucket of MinIO or of any other S3 server. Keys come from the environment."""

    endpoint: Annotated[
        str | None,
        Field(description="http://HOST:9000, https://HOST or HOST:PORT; none: the environment's MINIO_ENDPOINT"),
    ] = None
    secure: Annotated[
        bool | None,
        Field(description="TLS, for an endpoint without a scheme; none: yes, unless MINIO_SECURE says no"),
    ] = None
    bucket: Annotated[str, Field(description="name of the bucket")] = ""
    prefix: Annotated[str, Field(description="folder in the bucket, or one archive; empty: the whole bucket")] = ""
    region: Annotated[str | None, Field(description="region of the bucket; none: the server is asked")] = None
    access_key_env: Annotated[
        EnvironmentName,
        Field(
            description="name of the environment variable with the access key; none: MINIO_ACCESS_KEY or "
            "AWS_ACCESS_KEY_ID"
        ),
    ] = None
    secret_key_env: Annotated[
        EnvironmentName,
        Field(
            description="name of the environment variable with the secret key; none: MINIO_SECRET_KEY or "
            "AWS_SECRET_ACCESS_KEY"
        ),
    ] = None
    session_token_env: Annotated[
        EnvironmentName,
        Field(
            description="name of the environment variable with a session token; none: MINIO_SESSION_TOKEN or "
            "AWS_SESSION_TOKEN"
        ),
    ] = None
    anonymous: Annotated[bool, Field(description="ask without keys, as for public buckets")] = False
    unpack: Annotated[
        bool,
        Field(
            description="unpack archives (zip, tar): one alone becomes the data's folder, each of several a folder "
            "of its name"
        ),
    ] = True
    downloads: Annotated[int, Field(ge=1, le=64, description="objects fetched at the same time")] = 8


class CVATDataSource(Settings):
    """Tasks, projects and jobs of a CVAT server. Credentials come from the environment."""

    url: Annotated[
        str | None, Field(description="address of the server; none: the environment's CVAT_URL or CVAT_HOST")
    ] = None
    task_ids: Annotated[Numbers, Field(description="tasks, by number")] = ()
    project_ids: Annotated[Numbers, Field(description="projects: all their tasks")] = ()
    job_ids: Annotated[Numbers, Field(description="jobs, where not their whole tasks are wanted")] = ()
    organization: Annotated[
        str | None,
        Field(description="short name of the organisation; empty: your own space; none: everything that you can see"),
    ] = None
    downloader: Annotated[
        Literal["auto", "sdk", "http-v2", "http-v1"],
        Field(
            description="sdk: through the cvat-sdk; http-v2: plain HTTP; http-v1: as old servers export; auto: the "
            "first of these that fits the server"
        ),
    ] = "auto"
    export: Annotated[
        Literal["auto", "task", "jobs", "frames"],
        Field(
            description="task: each whole; jobs: job by job; frames: annotations, and pictures one by one; auto: the "
            "next of these where one fails, as exports do that are too big for the server"
        ),
    ] = "auto"
    timeout: Annotated[float, Field(gt=0, description="seconds that the server may be silent")] = 60.0
    username_env: Annotated[
        EnvironmentName, Field(description="name of the environment variable with the user; none: CVAT_USERNAME")
    ] = None
    password_env: Annotated[
        EnvironmentName, Field(description="name of the environment variable with the password; none: CVAT_PASSWORD")
    ] = None
    token_env: Annotated[
        EnvironmentName,
        Field(description="name of the environment variable with the key that a login gave; none: CVAT_TOKEN"),
    ] = None
    access_token_env: Annotated[
        EnvironmentName,
        Field(description="name of the environment variable with a personal access token; none: CVAT_ACCESS_TOKEN"),
    ] = None


class DataSplitConfig(Settings):
    """How images get their split: by their content, so that an image keeps its own when others are added."""

    mode: Annotated[
        Literal["keep", "anew"],
        Field(
            description="keep: splits that the data have stay, and only data without a validation split are split; "
            "anew: all images are split, whatever the data say"
        ),
    ] = "keep"
    val: Annotated[float, Field(ge=0, lt=1, description="share of the images for validation")] = 0.2
    test: Annotated[float, Field(ge=0, lt=1, description="share of the images for the test")] = 0.0
    seed: Annotated[int, Field(ge=0, description="another seed gives another split")] = 0
    stratify: Annotated[
        bool,
        Field(
            description="every split gets its share of each class, for which some images move when others are added, "
            "unless `files` holds them; false: by content alone, and no class of two images is missing from a split"
        ),
    ] = False
    group: Annotated[
        GroupRule | None,
        Field(
            description="images of one group stay together: a regular expression for the file name (what its groups "
            "match, or all that it matches, names the group), or field:NAME for a field of the annotation file"
        ),
    ] = None
    files: Annotated[
        str | None,
        local_path(
            "images that are named here keep their split: a split.json as `detloom split` writes it, or a folder with "
            "train.txt, val.txt or test.txt, a file name a line"
        ),
    ] = None


class DataConfig(Settings):
    """Where the data come from and how they reach the network."""

    source: Annotated[str, choice("source", "where the data come from")] = "local"
    sources: Annotated[
        tuple[dict[str, Any], ...],
        plugin_list(
            "source",
            "several sources that become one data set, instead of `source`: a list of `{type: local, path: ...}`, "
            "`{type: s3, bucket: ...}` and so on, each with its source's own settings and, where wanted, `name` and "
            "`format`; a path alone means a folder of this machine",
        ),
    ] = ()
    class_aliases: Annotated[
        Aliases, Field(description="other names of classes: `{bike: bicycle}` makes bicycles of bikes")
    ] = NO_ALIASES
    drop_classes: Annotated[Names, Field(description="classes to leave out, with their objects")] = ()
    conflicts: Annotated[
        Literal["refuse", "first", "union"],
        Field(
            description="when the same picture has other labels in two sources: refuse; first: those of the source "
            "that is named first; union: all of them, equal ones once"
        ),
    ] = "refuse"
    format: Annotated[str, choice("format", "how the annotations are written; auto: found by looking")] = "auto"
    split: Annotated[DataSplitConfig, Field(description="who goes where")] = DataSplitConfig()
    policy: Annotated[
        Literal["strict", "repair", "lenient"],
        Field(
            description="strict: whatever the check would mend or drop stops a training; repair: errors stop it, boxes "
            "without a size or outside their image are mended or dropped; lenient: errors that name single images or "
            "objects leave those out"
        ),
    ] = "repair"
    allow: Annotated[
        Names, Field(description="codes of errors that do not stop a training; what they name is left out")
    ] = ()
    max_left_out: Annotated[
        Probability | None,
        Field(
            description="largest share of the images, or of the objects, that errors may leave out before it stops "
            "anyway; none: 0.01 for what lenient leaves out, no limit for the codes in `allow`"
        ),
    ] = None
    size_mismatch: Annotated[
        Literal["refuse", "picture", "scale"],
        Field(
            description="when the written size of an image is not the picture's: refuse; picture: the size is wrong, "
            "and boxes are pixels of the picture; scale: the picture was resized, and boxes and masks with it"
        ),
    ] = "refuse"
    near_duplicates: Annotated[bool, Field(description="look for pictures of one split that are nearly in another")] = (
        True
    )
    fetch_deadline: Annotated[
        float, Field(gt=0, description="seconds that fetching the data may take, with all retries")
    ] = 14400.0
    num_workers: Annotated[
        Annotated[int, Field(ge=0, le=256)] | Literal["auto"],
        Field(description="processes that read and augment; auto: by the number of cores"),
    ] = "auto"
    prefetch_factor: Annotated[Positive, Field(description="batches that each worker prepares ahead")] = 2
    persistent_workers: Annotated[bool, Field(description="keep the workers between epochs")] = True
    pin_memory: Annotated[bool, Field(description="page-locked batches: faster copies to a GPU")] = True
    balance: Annotated[
        Literal["none", "repeat-factor", "weighted"],
        Field(
            description="how often an epoch shows a training image. repeat-factor: more often when it holds a class "
            "that few images hold (LVIS); weighted: in proportion to how rare its rarest class is"
        ),
    ] = "none"
    balance_threshold: Annotated[
        float,
        Field(gt=0, le=1, description="repeat-factor: classes in a smaller share of the images are shown more often"),
    ] = 0.1
    cache: Annotated[
        Literal["none", "ram", "disk"],
        Field(
            description="keep decoded images at the size of the network input, so that they are read once; disk: also "
            "for later runs, in the cache folder (DETLOOM_CACHE)"
        ),
    ] = "none"
