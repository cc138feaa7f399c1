"""Drop-ins that name handlers: any file here, or in a ``txtcmu/plugins/`` elsewhere on the path, is one."""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))  # type: ignore[no-untyped-call]
__all__: list[str] = []
