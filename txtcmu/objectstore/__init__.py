"""Object stores: :class:`txtcmu.interfaces.IObjectStore` on S3 and in memory, with retries and credentials."""
