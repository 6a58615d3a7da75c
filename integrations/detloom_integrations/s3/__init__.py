"""MinIO and any other S3 server. The only code that imports `minio`."""
