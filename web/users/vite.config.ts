import { defineConfig } from "vite";

// Built into the folder of the stack file, where a site must be. Everything is a file of its own with a hash in
// its name: the content security policy allows no inline script, style or data: address, and caches keep such
// files for ever.
export default defineConfig({
  base: "/",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: { outDir: "../../apps/users/site", emptyOutDir: true, target: "es2022", assetsInlineLimit: 0, modulePreload: false, sourcemap: false,
    // The edge keeps files for ever whose last part after a dash is a hash; the usual alphabet has dashes in it.
    rolldownOptions: { output: { hashCharacters: "hex" } } },
  // `npm run dev` against a running stack: USERS=https://users.localhost:8443 npm run dev
  server: { proxy: { "/api": { target: process.env.USERS ?? "http://127.0.0.1:8080", secure: false } } },
});
