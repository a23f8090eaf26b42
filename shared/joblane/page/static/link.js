// A link from elsewhere lacks the base of this page's addresses. A browser that is signed in has kept it.
"use strict";

(() => {
  const base = localStorage.getItem("joblane-base");
  if (!/^\/~[\w-]+$/.test(base) || location.pathname.startsWith(`${base}/`)) return;
  location.replace(base + location.pathname.replace(/^\/~[^/]*/, "") + location.search);
})();
