"""Apache with mod_dav, of Debian's package apache2-bin: WebDAV, whose conditions do not hold in a race."""

from __future__ import annotations

from pathlib import Path

from tools.servers.s3server import S3Server, program

_MODULES = ("authz_core", "dav", "dav_fs", "mpm_event")


class Apache(S3Server):
    """A WebDAV server of a directory, the bucket being a collection; it asks nobody for a signature."""

    def launch(self, data: Path, ports: list[int]) -> None:
        """Start it with a configuration of its own."""
        files = data / "files"
        (files / self.bucket).mkdir(parents=True)
        files.chmod(0o777)
        configuration = self.directory / "apache.conf"
        modules = [f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in _MODULES]
        lines = [
            *modules,
            f'ServerRoot "{data}"',
            "ServerName 127.0.0.1",
            f"Listen 127.0.0.1:{ports[0]}",
            f'PidFile "{data}/pid"',
            f'DocumentRoot "{files}"',
            f'DavLockDB "{data}/locks"',
            "ErrorLog /dev/stderr",
            "FileETag Digest",  # others are weak for a second, and match nothing
            f'<Directory "{files}">',
            "Dav On",
            "</Directory>",
            "KeepAliveTimeout 60",
            "MaxKeepAliveRequests 0",
            "ThreadsPerChild 64",  # each waits for the end of a body
            "MaxRequestWorkers 64",
        ]
        configuration.write_text("\n".join([*lines, ""]))
        apache = program("apache2", "apt-get install apache2-bin", "/usr/sbin:/usr/bin")
        self.run("apache", [apache, "-X", "-f", str(configuration)])  # one process, which is all that has to end

    def ready(self) -> bool:
        """Tell whether it answers; the bucket is there."""
        return self.request("OPTIONS", f"/{self.bucket}/")[0] == 200
