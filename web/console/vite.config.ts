import { defineConfig } from "vite";

// Everything is a file of its own with a hash in its name: the server's content security policy allows no
// inline script, style or data: address, and caches such files for ever.
export default defineConfig({
  base: "/",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: false, sourcemap: false },
});
