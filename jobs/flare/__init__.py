"""The NVFlare room: the only place that imports nvflare. Controller, executor, kits, processes, admin session."""
